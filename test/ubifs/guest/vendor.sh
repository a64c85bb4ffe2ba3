# What the vendor's guide asks of its script: whole-number tags, and copies of
# everything, files first, tag last. "printed" copies apps into an apps that it
# has just made, as the guide has it; "mended" does not.
# usage: vendor.sh LIVE BACKUP printed|mended
live=$1 backup=$2 how=$3

copy() {
	rm -rf "$2/apps" "$2/app_ver.txt"
	mkdir -p "$2"
	[ "$how" = mended ] || mkdir -p "$2/apps"
	cp -a "$1/apps" "$2/apps"
	sync
	cp "$1/app_ver.txt" "$2/app_ver.txt"
	sync
}

a='' b=''
[ -d "$live/apps" ] && [ -f "$live/app_ver.txt" ] && a=$(cat "$live/app_ver.txt")
[ -d "$backup/apps" ] && [ -f "$backup/app_ver.txt" ] && b=$(cat "$backup/app_ver.txt")
if [ -z "$a$b" ]; then
	exit 10
elif [ -z "$b" ]; then
	copy "$live" "$backup"
elif [ -z "$a" ]; then
	copy "$backup" "$live"
elif [ "$a" -gt "$b" ]; then
	copy "$live" "$backup"
elif [ "$a" -lt "$b" ]; then
	copy "$backup" "$live"
fi
