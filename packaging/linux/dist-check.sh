#!/bin/sh
# Builds a release in two folders and compares what comes out, byte by byte.
# The program for 32-bit ARM is compiled from nothing in the second one; the
# rest is linked there from what the compiler's cache holds.
set -eu
cd "$(dirname "$0")/../.."

value() { make -s print VALUE="$1"; }
VERSION=$(value VERSION) COMMIT=$(value COMMIT) BUILT=$(value BUILT)
export VERSION COMMIT BUILT

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
for folder in one two/in-another/place; do
	mkdir -p "$scratch/$folder"
	git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$scratch/$folder"
done

echo "building in the first folder"
make -s -C "$scratch/one" dist >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
echo "building in the second folder"
cd "$scratch/two/in-another/place"
GOCACHE=$scratch/cache make -s arm DIST=fresh
make -s dist >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }

cmp "$scratch/one/dist/tandem-linux-armv7" fresh/tandem-linux-armv7
diff -r "$scratch/one/dist" dist
(cd dist && sha256sum --quiet --check SHA256SUMS)
wc -c dist/tandem-*linux-*
echo "both releases are the same, byte by byte"
