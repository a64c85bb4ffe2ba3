# GNU make. "make" or "make help" lists the targets.

COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# As "git describe" says it; before the first release, what would be its tag.
VERSION ?= $(shell git describe --tags --match 'v*' 2>/dev/null | sed 's/^v//' | grep . || { [ -z '$(COMMIT)' ] || echo "0.0.0-$$(git rev-list --count HEAD)-g$(COMMIT)"; })
BUILT   ?= $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null))
# Who answers for the packages; without DEBEMAIL, who made the commit.
MAINTAINER ?= $(if $(DEBEMAIL),$(or $(DEBFULLNAME),$(DEBEMAIL)) <$(DEBEMAIL)>,$(shell git log -1 --format='%cn <%ce>' 2>/dev/null))
# What is small: HTTP/2 is left out, which a device has no use for, and functions are not inlined
# in the packages in COLD, which are large and seldom at work.
COLD     = tandem/agent/page maragu.dev/gomponents/... github.com/theupdateframework/... github.com/sigstore/... \
           github.com/spf13/... net/http crypto/tls crypto/x509
SMALL    = -tags nethttpomithttp2 $(COLD:%=-gcflags=%=-l)
# Segments begin at pages, which 32-bit ARM has of 4 KiB.
LINK_armv7 = -R=4096
LDFLAGS  = -ldflags '$(LINK_$*) -s -w -X main.version=$(VERSION) -X "main.mark=tandem program, version:$(VERSION):" -X main.commit=$(COMMIT) -X main.built=$(BUILT)'
FLAGS    = -trimpath -buildvcs=false $(LDFLAGS)

# What "make dist" builds, and where it puts it.
DIST       ?= dist
PROGRAMS    = tandem-linux-armv7 tandem-linux-arm64 tandem-linux-amd64 \
              tandem-release-linux-arm64 tandem-release-linux-amd64
BINARIES    = $(addprefix $(DIST)/,$(PROGRAMS))
CROSS       = GOFLAGS= GOEXPERIMENT= CGO_ENABLED=0 GOOS=linux
CROSS_armv7 = $(CROSS) GOARCH=arm GOARM=7
CROSS_arm64 = $(CROSS) GOARCH=arm64 GOARM64=v8.0
CROSS_amd64 = $(CROSS) GOARCH=amd64 GOAMD64=v1

# The limit on the size of tandem, stripped, on linux/arm v7, in bytes.
SIZE_LIMIT = 11534336

FUZZTIME   ?= 1m
STATICCHECK = .cache/bin/staticcheck
NFPM        = .cache/bin/nfpm

.DEFAULT_GOAL := help
.PHONY: help build arm dist dist-check packages packages-check print FORCE test search search-short race demo trial bench bench-delta savings soak fleet otel page pictures formats lab-model lab-planted lab-ubifs lab-ext4 lab-device lab-systemd patches-emulated fuzz lint fmt-check vet staticcheck shellcheck tools size clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r t d; do printf '%-12s %s\n' "$$t" "$$d"; done

build: ## build tandem and tandem-release into bin/
	CGO_ENABLED=0 go build $(FLAGS) $(SMALL) -o bin/tandem ./cmd/tandem
	CGO_ENABLED=0 go build $(FLAGS) -o bin/tandem-release ./cmd/tandem-release

arm: $(DIST)/tandem-linux-armv7 ## build tandem for a device with a 32-bit ARM core, into dist/

dist: $(BINARIES) ## build the programs of a release, with checksums and a bill of materials, into dist/
	go run ./packaging/linux/sbom -version '$(or $(VERSION),$(COMMIT))' -built '$(or $(BUILT),0)' \
		-bill $(DIST)/tandem.cdx.json -licences $(DIST)/licences.txt $(BINARIES)
	cd $(DIST) && sha256sum $(PROGRAMS) tandem.cdx.json licences.txt >SHA256SUMS
	@cd $(DIST) && wc -c $(PROGRAMS)

$(DIST)/tandem-linux-%: FORCE
	$(CROSS_$*) go build $(FLAGS) $(SMALL) -o $@ ./cmd/tandem

$(DIST)/tandem-release-linux-%: FORCE
	$(CROSS_$*) go build $(FLAGS) -o $@ ./cmd/tandem-release

PACKAGES = DIST='$(DIST)' VERSION='$(VERSION)' COMMIT='$(COMMIT)' BUILT='$(BUILT)' MAINTAINER='$(subst ','\'',$(MAINTAINER))' NFPM='$(abspath $(NFPM))'

packages: dist $(NFPM) ## make .deb and .ipk packages of tandem, into dist/
	@$(PACKAGES) sh packaging/linux/packages.sh

packages-check: packages ## install and remove the packages in a folder of their own
	@$(PACKAGES) sh packaging/linux/packages-check.sh

dist-check: ## build a release twice, in two folders, and compare
	@sh packaging/linux/dist-check.sh

test: ## go vet, and all tests but the long searches; three minutes on two processors
	go vet ./...
	go test -vet=off -timeout 20m $(LONGEST) ./...

# What takes longest begins first, and with it what waits for time to pass.
LONGEST = ./cmd/tandem ./test/e2e ./test/model ./test/soak

search: ## the tests that search for long: ten releases with faults and kills, very large trees, each planted bug, sides at rest; LABFLAGS are go test's
	TANDEM_LONG=1 go test -timeout 1h -run '^TestLong' $(LABFLAGS) ./backup ./cmd/... ./test/...

search-short: ## a part of each of them, in a minute: three releases, two planted bugs, a file of 1 GiB with holes
	TANDEM_LONG=short go test -count=1 -timeout 10m -run '^TestLong(LargeTrees|TenReleases|Planted)$$' $(LABFLAGS) ./cmd/tandem ./test/e2e ./test/planted

race: ## the quicker tests of what does several things at once, under the race detector
	go test -timeout 20m -short -race $(CONCURRENT)

# In no other package does anything run at once, nor is it called so.
CONCURRENT = ./agent ./agent/device/... ./agent/page ./backup ./cmd/... ./internal/child ./internal/fsys ./internal/handover ./ota/... ./packaging/bundle ./packaging/delta/encode

demo: build ## run the main job in a scratch folder and check each step
	@sh test/demo/demo.sh bin

trial: build ## make the folder that the book's examples are run in: TRIAL (try)
	@sh test/book/trial.sh bin $(or $(TRIAL),try)
	@echo 'now: cd $(or $(TRIAL),try) && PATH="$(CURDIR)/bin:$$PATH"'

bench: build ## measure against cp, rsync, tar, RAUC and the vendor's logic; BENCHFLAGS are its flags
	go run ./test/bench $(BENCHFLAGS)

bench-delta: ## compare patches with bsdiff, xdelta3, zstd, detools and hdiffpatch on real releases, which it fetches; BENCHFLAGS are its flags
	go build -o .cache/bin/patches ./test/patches
	.cache/bin/patches $(BENCHFLAGS)

savings: ## what updates of a few trees cost in each form, as the table of docs/publishing.md
	go run ./test/savings

formats: ## keep the files that the release in CHANGELOG.md writes, in test/formats: once for each release
	go test -count=1 -run '^TestWriteFormats$$' ./cmd/tandem -write-formats

lab-model: ## cut the power and fail the disk at every operation, on a model of the disks, for long; LABFLAGS are its flags
	cd test/model && go test -count=1 -timeout 2h -lab.full $(LABFLAGS)

lab-planted: ## build Tandem with each planted bug and want a lab (LAB=model, ubifs, ext4) to find it; BUG names one
	go run ./test/planted -lab $(or $(LAB),model) $(LABFLAGS) $(BUG)

soak: ## run the daemon for some minutes with faults, kills and edits; SOAKFLAGS are its flags
	go run ./test/soak $(SOAKFLAGS)

fleet: ## have 1,000 devices poll nginx, and count what they cost it; FLEETFLAGS are its flags
	go run ./test/fleet $(FLEETFLAGS)

COLLECTOR = .cache/bin/collector

otel: $(COLLECTOR) ## have ten devices report to an OpenTelemetry Collector, and ask Prometheus what examples/fleet shows of them
	cd test/otel/collector && go test -count=1 .
	TANDEM_COLLECTOR='$(abspath $(COLLECTOR))' go test -count=1 -timeout 15m -run '^TestFleet$$' ./test/e2e

# Built from its Go modules, in a module of its own.
$(COLLECTOR): $(wildcard test/otel/collector/*)
	cd test/otel/collector && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o '$(abspath $@)' .
	@touch $@

AXE = .cache/axe/node_modules/axe-core/axe.min.js
PAGE = cd test/page && TANDEM_BIN='$(abspath bin)' TANDEM_AXE='$(abspath $(AXE))'

page: build $(AXE) ## open the technician's page in Chromium: every button, uploads that are cut, phones, keyboards, axe, strangers
	$(PAGE) go test -count=1 -parallel 8 -timeout 15m $(PAGEFLAGS) .

pictures: build $(AXE) ## make the pictures of docs/page.md anew
	$(PAGE) TANDEM_PICTURES='$(abspath docs/pictures)' go test -count=1 -run '^TestPictures$$' .

$(AXE): Makefile
	npm install --silent --ignore-scripts --no-save --no-package-lock --prefix .cache/axe axe-core@4.14.1
	echo '29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c  $@' | sha256sum --check --quiet
	@touch $@

lab-ubifs: ## cut the power on real UBIFS, in a machine under QEMU; LABFLAGS are its flags
	go run ./test/ubifs $(LABFLAGS)

lab-ext4: ## the same on ext4, at points of the record of all writes
	go run ./test/ext4 $(LABFLAGS)

lab-device: packages ## run a whole module, 32-bit ARM in QEMU with the package, and reset it again and again
	go run ./test/device -package $(DIST)/tandem_*_armv7.ipk $(LABFLAGS)

patches-emulated: ## apply and make patches on 32-bit ARM and arm64, under QEMU's emulation of a user (qemu-user-static)
	@set -e; for m in "arm qemu-arm-static" "arm64 qemu-aarch64-static"; do \
		set -- $$m; echo "== $$1"; \
		CGO_ENABLED=0 GOARCH=$$1 GOARM=7 go test -count=1 -exec $$2 -short ./packaging/delta; \
		CGO_ENABLED=0 GOARCH=$$1 GOARM=7 go test -count=1 -exec $$2 -short -run 'TestVectors|TestPinned|TestSuffixArray' ./packaging/delta/encode; \
	done

lab-systemd: packages ## run a whole Debian with systemd, in QEMU with the package; LABFLAGS are its flags
	go run ./test/systemd -package $(DIST)/tandem_*_amd64.deb $(LABFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (1m)
	@set -e; for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || :); do \
			echo "== $$p $$f"; \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$p; \
		done; \
	done

lint: fmt-check vet staticcheck ## gofmt, go vet and staticcheck

fmt-check:
	@files=$$(gofmt -l */); if [ -n "$$files" ]; then echo "not formatted as gofmt does:"; echo "$$files"; exit 1; fi

vet:
	go vet ./...

staticcheck: $(STATICCHECK)
	$(STATICCHECK) ./...

shellcheck: ## check the shell scripts
	shellcheck --severity=warning .ci/run packaging/linux/*.sh packaging/linux/start packaging/linux/init.d/* packaging/linux/scripts/* test/demo/*.sh test/book/*.sh test/device/module/etc/init.d/* test/tufclient/*.sh

tools: $(STATICCHECK) $(NFPM) ## install what lint and packages need into .cache/bin

$(STATICCHECK): Makefile
	GOBIN='$(abspath $(@D))' go install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	@touch $@

# The newest nfpm whose modules can all be had.
$(NFPM): Makefile
	GOBIN='$(abspath $(@D))' go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
	@touch $@

size: arm ## check the size of tandem on 32-bit ARM
	@n=$$(wc -c <$(DIST)/tandem-linux-armv7); \
	echo "tandem for linux/arm v7: $$n bytes, at most $(SIZE_LIMIT) are allowed"; \
	test "$$n" -le $(SIZE_LIMIT)

print: # print what a variable holds: make -s print VALUE=VERSION
	@echo '$($(VALUE))'

clean: ## remove what was built
	rm -rf bin dist .cache
