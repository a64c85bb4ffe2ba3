#!/bin/sh
# Makes the packages of tandem out of what "make dist" built. The Makefile gives
# DIST, VERSION, COMMIT, BUILT, MAINTAINER and NFPM. The same programs give the
# same bytes.
set -eu
cd "$(dirname "$0")/../.."

# Package managers sort "~" before nothing, and nothing before "+": a release
# candidate before its release, what follows a release after it.
PACKAGE_VERSION=$(echo "${VERSION:-0.0.0-$BUILT-g$COMMIT}" |
	sed 's/-\([0-9]*\)-g\([0-9a-f]*\)$/+\1.g\2/; s/-/~/')
PACKAGE_MAINTAINER=$MAINTAINER
[ -n "$PACKAGE_MAINTAINER" ] || {
	echo "packages: whose are they? make packages MAINTAINER='Ada Example <ada@example.com>'" >&2
	exit 1
}
SOURCE_DATE_EPOCH=$BUILT
export DIST PACKAGE_VERSION PACKAGE_MAINTAINER SOURCE_DATE_EPOCH

share=$DIST/share
rm -rf "$share"
mkdir -p "$share"
flags="-X main.version=$VERSION -X main.commit=$COMMIT -X main.built=$BUILT"
go run -tags manpages -ldflags "$flags" ./cmd/tandem "$share/man"
gzip -9 -n "$share"/man/*
go run -ldflags "$flags" ./cmd/tandem completion bash >"$share/tandem.bash"
gzip -9 -n <"$DIST/licences.txt" >"$share/licences.txt.gz"
gzip -9 -n <CHANGELOG.md >"$share/NEWS.gz"
gzip -9 -n >"$share/changelog.gz" <<END
tandem ($PACKAGE_VERSION) unstable; urgency=medium

  * NEWS.gz beside this file tells what is different.

 -- $PACKAGE_MAINTAINER  $(LC_ALL=C date -u -d "@$BUILT" '+%a, %d %b %Y %H:%M:%S +0000')
END

# package PROGRAM_ARCH PACKAGE_ARCH
package() {
	for format in deb ipk; do
		PROGRAM_ARCH=$1 PACKAGE_ARCH=$2 "$NFPM" package --config packaging/linux/nfpm.yaml \
			--packager $format --target "$DIST/tandem_${PACKAGE_VERSION}_$1.$format" >/dev/null
	done
}
rm -f "$DIST"/tandem_*.deb "$DIST"/tandem_*.ipk
package armv7 arm7
package arm64 arm64
package amd64 amd64
[ ! -e "$DIST/SHA256SUMS" ] || sed -i "/  tandem_/d" "$DIST/SHA256SUMS"
(cd "$DIST" && sha256sum tandem_*.deb tandem_*.ipk >>SHA256SUMS)
wc -c "$DIST"/tandem_*.deb "$DIST"/tandem_*.ipk
