# Container images of the two programs.
#
#   docker build --target agent .             what a device runs
#   docker build --target tandem-release .    what makes and publishes releases
#
# Another architecture: --platform linux/arm/v7, or without buildx
# --build-arg TARGETARCH=arm --build-arg TARGETVARIANT=v7. The version is told
# with --build-arg VERSION=1.2.3, the commit with COMMIT, the time, in seconds since
# 1970, with SOURCE_DATE_EPOCH.
ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM docker.io/library/golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY internal/containerregistry internal/containerregistry
COPY internal/protobufspecs internal/protobufspecs
RUN go mod download
COPY . .
ARG TARGETARCH=amd64
ARG TARGETVARIANT
ARG VERSION
ARG COMMIT=unknown
ARG SOURCE_DATE_EPOCH=0
# arm64 may come with a variant, but has only one.
RUN arch="$TARGETARCH"; [ "$TARGETARCH" != arm ] || arch="arm${TARGETVARIANT:-v7}"; \
    make "dist/tandem-linux-$arch" "dist/tandem-release-linux-$arch" \
        VERSION="$VERSION" COMMIT="$COMMIT" BUILT="$SOURCE_DATE_EPOCH" \
    && mkdir -p /out/agent/usr/bin /out/release/usr/bin /out/certs \
    && cp "dist/tandem-linux-$arch" /out/agent/usr/bin/tandem \
    && cp "dist/tandem-release-linux-$arch" /out/release/usr/bin/tandem-release \
    && cp /etc/ssl/certs/ca-certificates.crt /out/certs/ \
    && mkdir -p /out/agent/home/usrapp/apprun /out/agent/home/usrdata /out/agent/home/run /out/agent/home/tmp \
    && mkdir -p /out/release/home/releases/keys /out/release/home/releases/repo /out/release/home/releases/bundles

FROM scratch AS tandem-release
ARG VERSION
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="tandem-release" \
      org.opencontainers.image.description="Makes, signs and publishes releases for devices that run Tandem" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /out/release/usr/ /usr/
COPY --from=build --chown=65532:65532 /out/release/home/ /
USER 65532:65532
WORKDIR /releases
ENTRYPOINT ["/usr/bin/tandem-release"]

# The agent runs as a user of its own where the volumes of the sides are its own.
# On the directories of a real device run it with --user 0: files keep the owners
# that they have, and only root can give them.
FROM scratch AS agent
ARG VERSION
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="tandem" \
      org.opencontainers.image.description="Keeps an application up to date, and a second copy of it in step" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /out/certs/ /etc/ssl/certs/
COPY --from=build /out/agent/usr/ /usr/
COPY --from=build --chown=65532:65532 /out/agent/home/ /
USER 65532:65532
ENTRYPOINT ["/usr/bin/tandem"]
CMD ["agent"]
# Healthy is a device that has an intact application: a plan can be made.
HEALTHCHECK --interval=5m --timeout=30s --start-period=2m CMD ["/usr/bin/tandem", "boot", "--dry-run", "--quiet"]
