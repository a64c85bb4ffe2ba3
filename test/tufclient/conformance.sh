#!/bin/sh
# Runs the public TUF conformance suite against the client of a device.
#
#	test/tufclient/conformance.sh SUITE [PYTEST-OPTION...]
#
# SUITE is a checkout of theupdateframework/tuf-conformance (tried with 2.4.0).
# pytest and what the suite needs must be installed (pip install SUITE), and
# faketime be in PATH. PYTEST names another pytest than the one in PATH.
set -eu

if [ $# -eq 0 ]; then
	echo "usage: $0 SUITE [PYTEST-OPTION...]" >&2
	exit 2
fi
suite=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$here" && go build -o "$work/tufclient" .)
# The suite looks for expected failures beside the program.
cp "$here/tufclient.xfails" "$work/"
"${PYTEST:-pytest}" -q "$suite/tuf_conformance" --entrypoint "$work/tufclient" "$@"
