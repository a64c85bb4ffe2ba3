# rauc install, with its service on a session bus, since a bench has no system
# bus of its own. Prints when the installation begins and when it ends.
# usage: dbus-run-session -- rauc.sh CONFIG BUNDLE
export DBUS_STARTER_BUS_TYPE=session
rauc --conf="$1" --override-boot-slot=_external_ service >&2 &
tries=0
until rauc status >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ "$tries" -lt 200 ] || exit 1
	sleep 0.05
done
date +%s%N
rauc install "$2" >&2
status=$?
date +%s%N
kill "$!"
wait "$!"
exit "$status"
