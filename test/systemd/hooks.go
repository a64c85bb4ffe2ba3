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
pre_install) while [ -e /run/hold ]; do sleep 0.2; done ;;
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
		// What the unit says of itself follows what a command has it do.
		l.holds("touch /run/hold", "systemd-run --quiet --collect --no-block --unit=installing tandem install /lab/"+bundle(n+1)),
		l.becomes("the unit tells what it does", "systemctl show --value -p StatusText tandem-agent | grep -q '^installing'"),
		l.holds("rm /run/hold"),
		l.becomes("it is installed", "! systemctl is-active -q installing && "+idle),
		l.becomes("the unit tells that it is idle", "systemctl show --value -p StatusText tandem-agent | grep -q '^idle'"),
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

const held = `[hooks]
stop = ["systemctl", "stop", "hello"]
start = ["systemctl", "start", "hello"]
health = ["sh", "-c", "echo well >/opt/health"]

[[firmware]]
name = "modem"
handler = ["handler"]
`

// inSandbox: without the message bus a hook and a handler are held in the agent's
// sandbox. What that forbids them is no verdict, the message names it, and the drop-in
// that it names helps.
func (l *lab) inSandbox() error {
	n, err := l.installed()
	if err != nil {
		return err
	}
	next, after := version(n+1), version(n+2)
	const says = "held in the sandbox of tandem-agent.service.*drop-in"
	return checks(
		l.holds("systemctl stop dbus.socket dbus.service", "rm -f /run/dbus/system_bus_socket /opt/modem /opt/health",
			file("/usr/local/sbin/handler", handler), "chmod +x /usr/local/sbin/handler",
			`sed -i '/^\[hooks\]/,$d' /etc/tandem.toml`, "cat >>/etc/tandem.toml <<'END'\n"+held+"END", "systemctl restart tandem-agent"),
		l.becomes("the agent is idle", idle),
		l.holds("tandem doctor 2>&1 | grep -q 'there is no message bus'"),
		l.holds("tandem install /lab/"+bundle(n+1)+" || :"),
		l.saying("cat /usrapp/apprun/app_ver.txt", next),
		l.holds("journalctl -u tandem-agent -b | grep -q '"+says+"'", "tandem status | grep -q 'not confirmed'", "! tandem status | grep -q revoked"),
		l.saying("tandem install /lab/modem.tandem >/run/said 2>&1; echo $?", "50"),
		l.holds("grep -q '"+says+"' /run/said", "[ ! -e /opt/modem ]", "! tandem status | grep -q revoked"),
		l.holds("mkdir -p "+dropIns, file(dropIns+"/opt.conf", "[Service]\nReadWritePaths=-/opt\nCapabilityBoundingSet=CAP_SETUID CAP_SETGID"), "systemctl daemon-reload", "systemctl restart tandem-agent"),
		l.becomes("the agent is idle", idle),
		l.holds("tandem install /lab/"+bundle(n+2), "tandem install /lab/modem.tandem", "grep -qx 2.0.0 /opt/modem", "grep -qx well /opt/health",
			"! tandem status | grep -q 'not confirmed'"),
		l.holds("rm -r "+dropIns, "cp /lab/tandem.toml /etc", "systemctl daemon-reload", "systemctl start dbus.socket", "systemctl restart tandem-agent", noneFailed),
		func() error { return l.well(after) },
	)
}
