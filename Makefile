# GNU make. "make" or "make help" lists the targets.

VERSION ?= $(shell git describe --tags --match 'v*' 2>/dev/null | sed 's/^v//')
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
BUILT   ?= $(shell git log -1 --format=%ct 2>/dev/null)
FLAGS    = -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.built=$(BUILT)'

# The limit on the size of tandem, stripped, on linux/arm v7, in bytes.
SIZE_LIMIT = 11534336

FUZZTIME   ?= 1m
STATICCHECK = .cache/bin/staticcheck

.DEFAULT_GOAL := help
.PHONY: help build arm test demo bench lab-model lab-planted lab-ubifs fuzz lint fmt-check vet staticcheck tools size clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r t d; do printf '%-12s %s\n' "$$t" "$$d"; done

build: ## build tandem and tandem-release into bin/
	CGO_ENABLED=0 go build $(FLAGS) -o bin/ ./cmd/...

arm: ## build tandem for a device with a 32-bit ARM core, into dist/
	CGO_ENABLED=0 GOOS=linux GOARCH=arm GOARM=7 go build $(FLAGS) -o dist/tandem-linux-armv7 ./cmd/tandem

test: ## go vet, and all tests
	go vet ./...
	go test ./...

demo: build ## run the main job in a scratch folder and check each step
	@sh test/demo/demo.sh bin

bench: ## measure against cp, rsync, tar, RAUC and the vendor's logic; BENCHFLAGS are its flags
	go run ./test/bench $(BENCHFLAGS)

lab-model: ## cut the power and fail the disk at every operation, on a model of the disks; LABFLAGS are its flags
	cd test/model && go test -count=1 -timeout 2h -lab.full $(LABFLAGS)

lab-planted: ## build Tandem with each planted bug and want the model lab to find it; BUG names one
	go run ./test/planted $(BUG)

lab-ubifs: ## cut the power on real UBIFS, in a machine under QEMU; LABFLAGS are its flags
	go run ./test/ubifs $(LABFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (1m)
	@set -e; for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || :); do \
			echo "== $$p $$f"; \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; \
		done; \
	done

lint: fmt-check vet staticcheck ## gofmt, go vet and staticcheck

fmt-check:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted as gofmt does:"; echo "$$files"; exit 1; fi

vet:
	go vet ./...

staticcheck: $(STATICCHECK)
	$(STATICCHECK) ./...

tools: $(STATICCHECK) ## install what lint needs into .cache/bin

$(STATICCHECK): Makefile
	GOBIN='$(abspath $(@D))' go install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	@touch $@

size: arm ## check the size of tandem on 32-bit ARM
	@n=$$(wc -c <dist/tandem-linux-armv7); \
	echo "tandem for linux/arm v7: $$n bytes, at most $(SIZE_LIMIT) are allowed"; \
	test "$$n" -le $(SIZE_LIMIT)

clean: ## remove what was built
	rm -rf bin dist .cache
