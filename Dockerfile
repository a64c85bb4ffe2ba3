# docker build --target tandem .            the program that a device carries
# docker build --target tandem-release .    the program that makes releases
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY internal/protobufspecs internal/protobufspecs
RUN go mod download
COPY . .
RUN make build

FROM scratch AS tandem
# What an https source is checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/bin/tandem /tandem
ENTRYPOINT ["/tandem"]

FROM scratch AS tandem-release
COPY --from=build /src/bin/tandem-release /tandem-release
ENTRYPOINT ["/tandem-release"]
