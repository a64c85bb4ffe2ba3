package main

import "strings"

// places: a bundle is installed from wherever the one who installs can read it.
func (l *lab) places() error {
	dirs := []string{"/tmp", "/root", "/home", "/var/tmp"}
	if l.short {
		dirs = dirs[:2]
	}
	for _, dir := range dirs {
		n, err := l.installed()
		if err != nil {
			return err
		}
		file := dir + "/" + bundle(n+1)
		if err := checks(
			l.holds("cp /lab/"+bundle(n+1)+" "+file, "tandem install "+file, "rm "+file),
			func() error { return l.well(version(n + 1)) },
		); err != nil {
			return err
		}
	}
	return l.says("tandem install /tmp/missing 2>&1 | head -1", "tandem: /tmp/missing: no such file or directory")
}

// hook does what is forbidden to the agent itself, each time. The application that
// it starts is its own child.
const hook = `#!/bin/sh
set -e
echo "$TANDEM_HOOK $TANDEM_VERSION" >>/root/hooks
touch /home/hook /opt/hook /tmp/hook
runuser -u nobody -- true
case $TANDEM_HOOK in
start)
	setsid /usrapp/apprun/apps/bin/hello >/dev/null 2>&1 &
	echo $! >/run/hello.pid
	;;
stop)
	if pid=$(cat /run/hello.pid 2>/dev/null); then kill "$pid" || :; fi
	;;
health)
	[ ! -e /run/killed ] || kill -KILL $$
	[ ! -e /run/ill ]
	;;
esac
`

// handler writes a firmware where the agent may not write.
const handler = `#!/bin/sh
set -e
case $1 in
version) cat /opt/modem 2>/dev/null || : ;;
install)
	echo progress 50
	runuser -u nobody -- true
	cat "$2/version" >/opt/modem
	;;
esac
`

const hooked = `[hooks]
pre_install = ["hook"]
stop = ["hook"]
start = ["hook"]
health = ["hook"]

[[firmware]]
name = "modem"
handler = ["handler"]

[source]
url = "file:///root/repo"
`

// idle succeeds where the agent has nothing to do.
const idle = "tandem status | grep -q '^agent: idle'"

// hooks run outside of the sandbox, and what they leave running outlives the agent.
func (l *lab) hooks() error {
	n, err := l.installed()
	if err != nil {
		return err
	}
	next, after := version(n+1), version(n+2)
	const application = `p=$(cat /run/hello.pid) && kill -0 $p && grep -q apprun /proc/$p/cmdline`
	// what happens, with the application going on all the while
	beside := func(what string) string {
		return application + " && " + what + " && [ $p = $(cat /run/hello.pid) ] && kill -0 $p"
	}
	return checks(
		l.holds("systemctl disable --now hello", "rm -f /root/hooks /run/hello.pid", "cp -r /lab/repo /root/repo",
			file("/usr/local/sbin/hook", hook), file("/usr/local/sbin/handler", handler), "chmod +x /usr/local/sbin/*",
			`sed -i '/^\[hooks\]/,$d' /etc/tandem.toml`, "cat >>/etc/tandem.toml <<'END'\n"+hooked+"END", "systemctl reload tandem-agent"),
		l.becomes("the configuration is read again", "journalctl -u tandem-agent -b | grep -q 'the configuration was changed' && "+idle),
		l.holds("tandem install /lab/"+bundle(n+1)),
		l.saying("cat /root/hooks", "pre_install "+next, "stop "+next, "start "+next, "health "+next),
		l.holds(application, noneFailed),
		l.holds(beside("systemctl restart tandem-agent")),
		l.becomes("the agent is idle", idle),
		l.holds(beside("systemctl kill -s KILL tandem-agent && sleep 1")),
		l.becomes("the agent is there again", "systemctl is-active -q tandem-agent && "+idle),
		// What is not well is taken back; a hook that was killed has said nothing.
		l.holds("touch /run/ill"),
		l.saying("tandem install /lab/"+bundle(n+2)+" >/dev/null 2>&1; echo $?", "51"),
		l.saying("cat /usrapp/apprun/app_ver.txt", next),
		l.holds(application, "rm /run/ill", "touch /run/killed", "tandem unrevoke "+after, "tandem install /lab/"+bundle(n+2)+" || :"),
		l.saying("cat /usrapp/apprun/app_ver.txt", after),
		l.holds("rm /run/killed"),
		l.becomes("it is confirmed", `! tandem status | grep -q 'not confirmed'`),
		l.holds("tandem install /lab/modem.tandem", "grep -qx 2.0.0 /opt/modem", "tandem check", noneFailed),
		// The application is a unit again.
		l.holds("kill $(cat /run/hello.pid)", "cp /lab/tandem.toml /etc", "systemctl enable --now hello", "systemctl restart tandem-agent"),
		func() error { return l.well(after) },
	)
}

// file writes a file in the machine.
func file(name, text string) string {
	return "cat >" + name + " <<'END'\n" + strings.TrimSuffix(text, "\n") + "\nEND"
}
