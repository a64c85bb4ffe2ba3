#!/bin/sh
# Installs the packages in DIST into small systems of their own, lets such a
# system start, and removes them again. It has to run as root, on amd64 with
# dpkg and a static busybox. The Makefile gives what packages.sh needs, too.
set -eu
cd "$(dirname "$0")/../.."
DIST=$(cd "$DIST" && pwd)

fail() {
	echo "packages-check: $*" >&2
	exit 1
}
same() { [ "$2" = "$3" ] || fail "$1: found
$2
expected
$3"; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
deb=$(echo "$DIST"/tandem_*_amd64.deb)

# --- What is in them.

names() { sed 's|^\./||; s|/$||' | grep . | sort; }
for arch in armv7 arm64 amd64; do
	d=$scratch/deb-$arch i=$scratch/ipk-$arch
	mkdir "$d" "$i" "$i/data" "$i/control"
	dpkg-deb -x "$DIST"/tandem_*_$arch.deb "$d"
	tar -xzf "$DIST"/tandem_*_$arch.ipk -C "$i"
	same "parts of the $arch ipk" "$(cd "$i" && ls -- *.gz debian-binary)" "control.tar.gz
data.tar.gz
debian-binary"
	tar -xzf "$i/data.tar.gz" -C "$i/data"
	tar -xzf "$i/control.tar.gz" -C "$i/control"
	diff -r "$d" "$i/data" || fail "the $arch packages differ"
	cmp "$d/usr/lib/tandem/tandem" "$DIST/tandem-linux-$arch"
	same "link of the $arch deb" "$(readlink "$d/usr/bin/tandem")" ../lib/tandem/tandem
	for s in postinst prerm postrm; do cmp "$i/control/$s" packaging/linux/scripts/$s; done
	want=arm64
	case $arch in armv7) want=armhf ;; amd64) want=amd64 ;; esac
	same "architecture of the $arch deb" "$(dpkg-deb -f "$DIST"/tandem_*_$arch.deb Architecture)" $want
	same "configuration files of the $arch ipk" "$(names <"$i/control/conffiles")" \
		"$(dpkg-deb --ctrl-tarfile "$DIST"/tandem_*_$arch.deb | tar -xO ./conffiles | names)"
done
# None that people edit: dpkg would ask about them at an upgrade, and nobody is there.
same "configuration files" "$(names <"$scratch/ipk-amd64/control/conffiles" | sed 's|^/||')" "etc/init.d/tandem-agent
etc/init.d/tandem-boot
etc/logrotate.d/tandem"
"$DIST/tandem-linux-amd64" version | grep -qF "tandem ${VERSION:-unreleased} " || fail "the program does not tell its version"
if command -v lintian >/dev/null; then
	said=$(lintian --allow-root --tag-display-limit 0 --fail-on error,warning "$DIST"/tandem_*.deb 2>&1) || fail "lintian: $said"
	same "remarks of lintian" "$said" ""
fi

# --- Made again, they are the same, byte by byte.

mkdir "$scratch/again"
cp "$DIST"/tandem-linux-* "$DIST/licences.txt" "$scratch/again"
DIST=$scratch/again sh packaging/linux/packages.sh >/dev/null
for f in "$scratch"/again/tandem_*; do cmp "$f" "$DIST/$(basename "$f")"; done
(cd "$DIST" && sha256sum --quiet --check SHA256SUMS)

# --- A small system with SysV init, as a device of the reference guide has it.

# device makes one, with an application from the factory.
device() { # ROOT
	mkdir -p "$1/bin" "$1/sbin" "$1/usr/bin" "$1/usr/sbin" "$1/tmp" "$1/run" "$1/proc" "$1/dev" "$1/var/log" "$1/etc/init.d" \
		"$1/var/lib/dpkg/info" "$1/var/lib/dpkg/updates" "$1/usrapp/apprun/apps" "$1/usrdata" "$1/etc/tandem"
	: >"$1/var/lib/dpkg/status"
	: >"$1/dev/null"
	for l in S 0 1 2 3 4 5 6; do mkdir "$1/etc/rc$l.d"; done
	cp "$(command -v busybox)" "$1/bin/busybox"
	for applet in sh cat cut basename grep ln rm sleep; do ln -s busybox "$1/bin/$applet"; done
	echo : >"$1/etc/init.d/find_partitions.sh"
	ln -s ../init.d/find_partitions.sh "$1/etc/rcS.d/S36find_partitions.sh"
	echo 'echo hello' >"$1/usrapp/apprun/apps/hello"
	echo 1.0.0 >"$1/usrapp/apprun/app_ver.txt"
	echo '{}' >"$1/etc/tandem/root.json"
}
root=$scratch/device
device "$root"
package() { dpkg --root="$root" --force-not-root --force-bad-path --log="$scratch/dpkg.log" "$@" >"$scratch/said" 2>&1 || fail "dpkg $*: $(cat "$scratch/said")"; }
in_device() { chroot "$root" "$@"; }
links() { (cd "$root/etc" && ls -d rc?.d/*tandem* 2>/dev/null) || :; }

package -i "$deb"
same "start sequence" "$(links)" "rc0.d/K05tandem-agent
rc0.d/K99tandem-boot
rc1.d/K05tandem-agent
rc2.d/S95tandem-agent
rc3.d/S95tandem-agent
rc4.d/S95tandem-agent
rc5.d/S95tandem-agent
rc6.d/K05tandem-agent
rc6.d/K99tandem-boot
rcS.d/S36tandem-boot"
same "the step before tandem boot" "$(cd "$root/etc/rcS.d" && echo *)" \
	"S36find_partitions.sh S36tandem-boot"

mount -t proc proc "$root/proc"
trap 'umount -l "$scratch"/*/proc 2>/dev/null || :; rm -rf --one-file-system "$scratch"' EXIT

# A device that nobody has configured is as the defaults say: what is not mounted
# is not written. One that has no application either is left alone.
code=0
in_device /etc/rcS.d/S36tandem-boot start >"$scratch/said" || code=$?
same "exit code without a partition" "$code" 12
grep -q 'nothing is mounted at /usrdata' "$scratch/said" || fail "boot without a partition: $(cat "$scratch/said")"
mv "$root/usrapp/apprun" "$root/usrapp/elsewhere"
in_device /etc/rcS.d/S36tandem-boot start >"$scratch/said" || fail "boot without anything: $(cat "$scratch/said")"
same "what boot says without anything" "$(cat "$scratch/said")" ""
mv "$root/usrapp/elsewhere" "$root/usrapp/apprun"

# The first start backs up what the factory put there; the second does nothing.
printf '[usr_data]\nmount = ""\n' >"$root/etc/tandem.toml"
in_device /etc/rcS.d/S36tandem-boot start >"$scratch/said" || fail "boot: $(cat "$scratch/said")"
cmp "$root/usrapp/apprun/apps/hello" "$root/usrdata/appbackup/apps/hello"
cmp "$root/usrapp/apprun/app_ver.txt" "$root/usrdata/appbackup/app_ver.txt"
grep -q 'backed up: in step at 1.0.0' "$root/var/log/tandem.log" || fail "the log does not tell of the backup"
in_device /etc/init.d/tandem-boot start | grep -q 'in step at 1.0.0' || fail "the second start"
# The machine stops: only then the orderly end is noted.
same "what stop says" "$(in_device /etc/init.d/tandem-boot stop)" ""
(export RUNLEVEL=6; in_device /etc/rc6.d/K99tandem-boot stop) | grep -q 'in step at 1.0.0' || fail "the orderly end"
in_device /etc/init.d/tandem-boot status | grep -q 'the sides are in step' || fail "status"

# What boot cannot do is said, and given to whoever called.
printf 'nonsense = 1\n' >"$root/etc/tandem.toml"
code=0
in_device /etc/init.d/tandem-boot start >"$scratch/said" || code=$?
same "exit code with a wrong configuration" "$code" 2
grep -q 'tandem boot: exit code 2' "$root/var/log/tandem.log" || fail "the log does not tell of the failure"
printf '[usr_data]\nmount = ""\n' >"$root/etc/tandem.toml"

# An upgrade keeps the configuration and what was disabled.
mv "$root/etc/rc5.d/S95tandem-agent" "$root/etc/rc5.d/K05tandem-agent"
before=$(links)
sum() { (cd "$root" && find usrapp usrdata etc/tandem etc/tandem.toml -type f | sort | xargs sha256sum); }
mine=$(sum)
package -i "$deb"
same "start sequence after an upgrade" "$(links)" "$before"
same "files after an upgrade" "$(sum)" "$mine"

# The agent's script. Each start is waited for, so that each end is an orderly one.
logged() { grep -c "$1" "$root/var/log/tandem.log" || :; }
until_runs() { # TIMES
	tries=0
	until [ "$(logged 'the agent runs')" -eq "$1" ]; do
		tries=$((tries + 1))
		[ $tries -le 300 ] || fail "the agent does not start: $(cat "$root/var/log/tandem.log")"
		sleep 0.1
	done
}
lives() { [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
agent() { # CODE ARG
	code=0
	in_device /etc/init.d/tandem-agent "$2" >"$scratch/said" 2>&1 || code=$?
	same "exit code of tandem-agent $2 ($(cat "$scratch/said"))" "$code" "$1"
}
agent 3 status
agent 0 start
until_runs 1
agent 0 status
first=$(cat "$root/run/tandem-agent.pid")
agent 0 start
same "process after a second start" "$(cat "$root/run/tandem-agent.pid")" "$first"
agent 0 restart
until_runs 2
second=$(cat "$root/run/tandem-agent.pid")
[ "$first" != "$second" ] || fail "restart started nothing"
! lives "$first" || fail "restart left the old agent"
kill -9 "$second"
while lives "$second"; do :; done
agent 1 status
agent 0 start
until_runs 3
agent 0 stop
agent 3 status
agent 0 stop
agent 2 nonsense
agent 7 reload
agent 0 try-restart
agent 3 status
same "orderly ends" "$(logged 'the agent ends')" 2
agent 0 start
until_runs 4
last=$(cat "$root/run/tandem-agent.pid")

# Removing and purging leave the application, its backup and the trust alone.
mine=$(sum)
package -r tandem
! lives "$last" || fail "the agent runs without its package"
same "start sequence after removal" "$(links)" ""
same "files after removal" "$(sum)" "$mine"
umount -l "$root/proc"
[ ! -e "$root/usr/bin/tandem" ] || fail "the program is still there"
[ ! -e "$root/usr/lib/tandem" ] || fail "left are $(ls "$root/usr/lib/tandem")"
mine=$(sum | grep -v 'etc/tandem.toml$')
package -P tandem
[ ! -e "$root/etc/tandem.toml" ] || fail "purge left the configuration"
same "files after purge" "$(sum 2>/dev/null)" "$mine"

# --- One file, and two who replace it: the package manager, and Tandem itself. What a
# person installs wins.

root=$scratch/own
device "$root"
for applet in mv sync; do ln -s busybox "$root/bin/$applet"; done
mount -t proc proc "$root/proc"
make -s DIST="$scratch/newer" VERSION=9.0.0 "$scratch/newer/tandem-linux-amd64"
release="$DIST/tandem-release-linux-amd64"
(
	cd "$scratch"
	"$release" keygen --out keys
	"$release" repo init repo --keys keys
	"$release" bundle create --kind agent --arch amd64 newer/tandem-linux-amd64 --keys keys --root repo/root.json --out own/tmp/nine.tandem
) >/dev/null
cp "$scratch/repo/root.json" "$root/etc/tandem/root.json"
dpkg-deb -R "$deb" "$scratch/repacked"
cp "$scratch/newer/tandem-linux-amd64" "$scratch/repacked/usr/lib/tandem/tandem"
sed -i 's/^Version: .*/Version: 9.0.0/' "$scratch/repacked/DEBIAN/control"
dpkg-deb -b "$scratch/repacked" "$scratch/nine.deb" >/dev/null

this=$("$DIST/tandem-linux-amd64" version | cut -d ' ' -f 2 | head -n 1)
tandem() { in_device /usr/bin/tandem "$@" >"$scratch/said" 2>&1 || fail "tandem $*: $(cat "$scratch/said")"; }
runs() { same "the tandem $1" "$(in_device /usr/bin/tandem version | cut -d ' ' -f 2 | head -n 1)" "$2"; }
keeps() { # WHEN VERSION
	kept=$(sed -n 's/^{"version":"\([^"]*\)".*/\1/p' "$root/usrdata/appbackup/.tandem/self/kept.json" 2>/dev/null) || :
	same "what usr_data keeps $1" "$kept" "$2"
	[ ! -e "$root/usr/lib/tandem/tandem.trial" ] || fail "$1 it is on trial"
}
starts() { in_device /etc/init.d/tandem-boot start >"$scratch/said" 2>&1 || fail "boot: $(cat "$scratch/said")"; }
opkg_installs() { # as opkg does: the files, then the script
	in_device /bin/sh /tmp/prerm upgrade >"$scratch/said" 2>&1 || fail "prerm: $(cat "$scratch/said")"
	tar -xzf "$scratch/ipk-amd64/data.tar.gz" -C "$root"
	in_device /bin/sh /tmp/postinst configure >"$scratch/said" 2>&1 || fail "postinst: $(cat "$scratch/said")"
}
cp "$scratch"/ipk-amd64/control/p* "$root/tmp"

# What nobody has signed is not kept, and the package says so.
package -i "$deb"
grep -q 'usr_data keeps' "$scratch/said" || fail "the package does not tell what is kept: $(cat "$scratch/said")"
printf '[usr_data]\nmount = ""\n' >"$root/etc/tandem.toml"
starts
keeps "after the first installation" ""
for manager in dpkg opkg; do
	# Tandem updates itself; the package manager puts its own, older one in place.
	tandem install --allow-revoked /tmp/nine.tandem
	starts
	tandem keep
	runs "that replaced itself" 9.0.0
	keeps "then" 9.0.0
	if [ $manager = dpkg ]; then package -i "$deb"; else opkg_installs; fi
	runs "that $manager installs" "$this"
	keeps "after $manager" ""
	grep -q 'usr_data keeps no copy' "$scratch/said" || fail "$manager hides what is said: $(cat "$scratch/said")"
	starts
	runs "that $manager installed, after a start" "$this"
	# And in the midst of a trial.
	tandem install --allow-revoked /tmp/nine.tandem
	[ -e "$root/usr/lib/tandem/tandem.trial" ] || fail "there is no trial"
	if [ $manager = dpkg ]; then package -i "$deb"; else opkg_installs; fi
	runs "that $manager installs during a trial" "$this"
	keeps "after a trial that $manager ended" ""
	starts
	runs "that $manager installed during a trial" "$this"
done
# An upgrade, whose program is that of a signed release which the device has seen; then a
# downgrade.
tandem install --allow-revoked /tmp/nine.tandem
package -i "$scratch/nine.deb"
runs "of an upgrade" 9.0.0
keeps "after an upgrade" 9.0.0
starts
package -i "$deb"
runs "of a downgrade" "$this"
keeps "after a downgrade" ""
starts
runs "after a downgrade, and a start" "$this"
umount -l "$root/proc"

# --- An image that is put together elsewhere: the ipk's scripts get its root.

root=$scratch/image
device "$root"
tar -xzf "$scratch/ipk-amd64/data.tar.gz" -C "$root"
mkdir -p "$root/lib/systemd"
: >"$root/lib/systemd/systemd"
chmod 755 "$root/lib/systemd/systemd"
D=$root sh "$scratch/ipk-amd64/control/postinst" configure >/dev/null
enabled() { (cd "$root/etc" && find systemd rc?.d -name '*tandem*' | sort); }
same "start sequence of the image" "$(enabled)" "rc0.d/K05tandem-agent
rc0.d/K99tandem-boot
rc1.d/K05tandem-agent
rc2.d/S95tandem-agent
rc3.d/S95tandem-agent
rc4.d/S95tandem-agent
rc5.d/S95tandem-agent
rc6.d/K05tandem-agent
rc6.d/K99tandem-boot
rcS.d/S36tandem-boot
systemd/system/multi-user.target.wants/tandem-agent.service
systemd/system/sysinit.target.wants/tandem-boot.service"
D=$root sh "$scratch/ipk-amd64/control/prerm" remove
same "start sequence of the image after removal" "$(enabled)" ""
cmp "$root/usrapp/apprun/apps/hello" "$scratch/device/usrapp/apprun/apps/hello"

# --- The units, where systemd can judge them.

if command -v systemd-analyze >/dev/null; then
	mkdir "$scratch/units"
	for u in packaging/linux/systemd/*; do
		sed "s|/usr/bin/tandem|$root/usr/lib/tandem/tandem|; s|=/usr/lib/tandem/start|=$root/usr/lib/tandem/start|" "$u" >"$scratch/units/$(basename "$u")"
	done
	said=$(systemd-analyze verify --man=no "$scratch"/units/* 2>&1) || fail "units: $said"
	same "remarks on the units" "$said" ""
fi
echo "the packages install, start, upgrade and remove as they should"
