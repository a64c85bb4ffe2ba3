#!/bin/sh
# Makes the folder that the examples of the book are run in: a device, tandem.toml
# and root.json; the bundles hello-1.0.0, 1.1.0 and 2.0.0; and a repository,
# releases, that offers the first two of them.
#
#     trial.sh PROGRAMS FOLDER
set -eu
umask 022
PATH=$(cd "$1" && pwd):$PATH
[ ! -e "$2" ] || {
	echo "$2 is there already: remove it, or name another folder: make trial TRIAL=FOLDER" >&2
	exit 1
}
mkdir "$2"
cd "$2"

tandem-release keygen --out .keys >/dev/null 2>&1
tandem-release repo init releases --keys .keys >root.json 2>/dev/null

# application VERSION GREETING
application() {
	mkdir -p ".build/$1/bin" ".build/$1/etc" ".build/$1/share/empty" ".build/$1/log"
	printf '#!/bin/sh\necho hello %s\n' "$1" >".build/$1/bin/hello"
	chmod 755 ".build/$1/bin/hello"
	ln ".build/$1/bin/hello" ".build/$1/bin/hullo"
	ln -s hello ".build/$1/bin/hi"
	echo "greeting = $2" >".build/$1/etc/hello.conf"
	echo 'the same in each version' >".build/$1/share/data"
	tandem-release bundle create ".build/$1" --app hello --version "$1" --compatible demo \
		--config-pattern 'etc/*.conf' --ignore 'log/**' \
		--keys .keys --root releases/root.json --out "hello-$1.tandem" >/dev/null 2>&1
}
application 1.0.0 'hello'
application 1.1.0 'hello'
application 2.0.0 'good morning'
for version in 1.0.0 1.1.0; do
	tandem-release repo add releases "hello-$version.tandem" --keys .keys >/dev/null 2>&1
done
rm -r .build

cat >tandem.toml <<'END'
[device]
id = "test"
compatible = ["demo"]
app = "hello"

[system]
path = "system"

[usr_data]
path = "usr_data"

[trust]
root = "root.json"

[agent]
state = "state"
lock = "tandem.lock"

[source]
url = "file:releases"
END
