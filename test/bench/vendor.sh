# What a device does today: two tags, whole numbers, and copies of everything.
# usage: vendor.sh LIVE BACKUP
live=$1 backup=$2

flush() { sync -f "$1" 2>/dev/null || sync; }

# The tag comes last, so that it stands for a copy that was finished.
copy() {
	mkdir -p "$2" &&
	rm -rf "$2/apps" "$2/app_ver.txt" &&
	cp -a "$1/apps" "$2/apps" && flush "$2" &&
	cp "$1/app_ver.txt" "$2/app_ver.txt" && flush "$2"
}

a='' b=''
[ -d "$live/apps" ] && [ -f "$live/app_ver.txt" ] && read -r a <"$live/app_ver.txt"
[ -d "$backup/apps" ] && [ -f "$backup/app_ver.txt" ] && read -r b <"$backup/app_ver.txt"
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
