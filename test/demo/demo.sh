#!/bin/sh
# The main job of Tandem, end to end, in a scratch folder: two directories are
# the two partitions, the embedded server is the update server. Each step says
# what it does, and checks what came of it.
# usage: demo.sh BIN, where BIN holds tandem and tandem-release
set -eu

bin=$(cd "${1:?usage: demo.sh BIN}" && pwd)
hello=$(cd "$(dirname "$0")/../../examples/hello" && pwd)
dir=$(mktemp -d)
unset SOURCE_DATE_EPOCH http_proxy HTTP_PROXY
server=
trap 'if [ -n "$server" ]; then kill "$server" || :; wait "$server" || :; fi 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir"
cp -R "$hello" hello

checks=0

step() {
	printf '\n== %s\n' "$*"
}

ok() {
	checks=$((checks + 1))
	echo "ok: $*"
}

fail() {
	echo "FAILED: $*"
	exit 1
} >&2

# run EXIT COMMAND... runs one of the two programs and shows what it says.
run() {
	expected=$1
	shift
	printf '$'
	for word; do
		case $word in
		*'*'*) printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	echo
	program=$1
	shift
	case $program in
	tandem) set -- --config device/tandem.toml "$@" ;;
	esac
	got=0
	"$bin/$program" "$@" >out 2>&1 </dev/null || got=$?
	sed 's/^/    /' out
	[ "$got" = "$expected" ] || fail "exit code $got, expected $expected"
}

# tag SIDE VERSION checks the tag of a side.
tag() {
	[ "$(cat "$1/app_ver.txt")" = "$2" ] || fail "$1 has the tag $(cat "$1/app_ver.txt"), expected $2"
	ok "the tag of $1 is $2"
}

# content SIDE lists all that a side holds, but for the ignored log: type,
# mode and owner, and each file's SHA-256.
content() {
	(
		cd "$1"
		find apps app_ver.txt ! -name hello.log -exec stat -c '%n %f %u:%g' {} + | sort
		find apps app_ver.txt -type f ! -name hello.log -exec sha256sum {} + | sort
	)
}

# expect VERSION GREETING checks all that can be seen of a healthy device.
expect() {
	got=$(device/system/apprun/apps/bin/hello)
	want="$2! This is hello $1."
	[ "$got" = "$want" ] || fail "the application says \"$got\", expected \"$want\""
	ok "the application runs from system and says: $got"
	device/system/apprun/apps/bin/health || fail "the health check of the application"
	ok "its health check passes"
	tag device/system/apprun "$1"
	tag device/usr_data/appbackup "$1"
	content device/system/apprun >system.txt
	content device/usr_data/appbackup >usr_data.txt
	cmp system.txt usr_data.txt || fail "the two sides differ"
	ok "both sides are identical, byte by byte, with modes and owners"
	"$bin/tandem" --config device/tandem.toml status --json >status.json
	intact='"state":"intact","version":"'$1'"'
	case $(tr -d ' \n' <status.json) in
	'{"in_step":true,'*'"system":{'*"$intact"*'"usr_data":{'*"$intact"*) ;;
	*)
		cat status.json
		fail "status --json should say that both sides are in step and intact at $1"
		;;
	esac
	ok "status --json: in step, both sides intact at $1"
}

step "On the build machine: keys and a repository"
run 0 tandem-release keygen --out keys
run 0 tandem-release repo init repo --keys keys
for v in 1.0.0 1.1.0; do
	step "On the build machine: make release $v, sign it, publish it"
	run 0 tandem-release bundle create "hello/$v" --app hello --version "$v" --compatible demo \
		--config-pattern 'etc/*.conf' --ignore 'log/**' --keys keys --root repo/root.json --out "hello-$v.tandem"
	run 0 tandem-release bundle verify "hello-$v.tandem" --root repo/root.json
	run 0 tandem-release repo add repo "hello-$v.tandem" --keys keys
done
ok "two releases are published"

step "Start the update server"
mkfifo url
"$bin/tandem-release" repo serve repo --listen 127.0.0.1:0 >url &
server=$!
url=
read -r url <url || fail "the server ended before it printed its URL"
ok "it serves the repository at $url"

step "A new device: two empty partitions, a configuration, a root of trust"
echo "Both partitions are directories of one file system here; on a device they are two."
mkdir -p device/system device/usr_data
cp repo/root.json device/root.json
cat >device/tandem.toml <<TOML
[device]
id = "demo-1"
app = "hello"
compatible = ["demo"]

[system]
path = "system/apprun"

[usr_data]
path = "usr_data/appbackup"

[trust]
root = "root.json"

[source]
url = "$url"

[agent]
state = "usr_data/tandem"
lock = "tandem.lock"
TOML
sed 's/^/    /' device/tandem.toml
run 10 tandem boot
ok "without an application there is nothing to bring in step: exit code 10"

step "Install 1.0.0 from the local file"
run 0 tandem install hello-1.0.0.tandem
expect 1.0.0 "Hello, world"

step "Edit the configuration on the device, and back it up"
sed 's/^name=.*/name=Tandem/' device/system/apprun/apps/etc/hello.conf >hello.conf
cat hello.conf >device/system/apprun/apps/etc/hello.conf
run 0 tandem backup
expect 1.0.0 "Hello, Tandem"

step "Update to 1.1.0 from the server"
run 0 tandem check
run 0 tandem update
expect 1.1.0 "Hello, Tandem"
cmp "hello/1.1.0/etc/hello.conf" device/system/apprun/apps/etc/hello.conf.new || fail "the new default should lie beside the edited file"
ok "the edited configuration is kept, the new default lies beside it as hello.conf.new"
run 0 tandem update
ok "a second update finds nothing newer"

step "Go back to 1.0.0 by mistake"
run 22 tandem install hello-1.0.0.tandem
expect 1.1.0 "Hello, Tandem"

step "Erase usr_data, and boot"
rm -rf device/usr_data
mkdir device/usr_data
run 0 tandem boot
expect 1.1.0 "Hello, Tandem"

step "Restore system to the factory's 1.0.0, and boot"
rm -rf device/system
mkdir -p device/system/apprun
cp -R hello/1.0.0 device/system/apprun/apps
echo 1.0.0 >device/system/apprun/app_ver.txt
run 0 tandem boot
expect 1.1.0 "Hello, Tandem"

step "Erase system, and boot"
rm -rf device/system
mkdir device/system
run 0 tandem boot
expect 1.1.0 "Hello, Tandem"

step "Damage a file on each side, and repair both"
echo '#' >>device/system/apprun/apps/bin/hello
: >device/usr_data/appbackup/apps/etc/hello.conf
run 11 tandem verify
run 0 tandem verify --repair
expect 1.1.0 "Hello, Tandem"

step "What the device remembers"
run 0 tandem history

printf '\nThe demo is done: all %d checks passed.\n' "$checks"
