package main

import (
	"fmt"
	"regexp"
	"strings"
)

// step is something that happens to a device, and what has to hold then.
type step struct {
	name   string
	do     func(l *lab) error
	always bool // others stand on it
	long   bool // it is left out where there is little time
}

// steps are carried out in their order, on one device.
type steps struct {
	name  string
	image bool // package, configuration and application are in its image
	all   []step
}

// series are what happens to different devices, at the same time. What is not long takes
// about as long on each of them.
var series = []steps{
	{name: "packages", all: []step{
		{name: "the package on a machine that nobody configured", do: (*lab).fresh, always: true},
		{name: "the device is configured", do: (*lab).configured, always: true},
		{name: "a bundle in /tmp, /root, /home", do: (*lab).places},
		{name: "hooks, a handler and a source that the sandbox would forbid", do: (*lab).hooks},
		{name: "hooks and a handler without the message bus, held in the sandbox", do: (*lab).inSandbox, long: true},
		{name: "the package is upgraded in the midst of an installation", do: (*lab).upgraded},
		{name: "the package is removed and installed again", do: (*lab).reinstalled},
		{name: "the units and drop-ins of the book", do: (*lab).book, long: true},
		{name: "a wrong configuration", do: (*lab).wrongConfiguration, long: true},
		{name: "usr_data goes and comes back beside the agent", do: (*lab).comesBack, long: true},
		{name: "attributes alone change", do: (*lab).attributes, long: true},
		{name: "sides in directories of the device's own, which go and come back", do: (*lab).ownDirectories, long: true},
		{name: "the package is purged and installed again", do: (*lab).purged, long: true},
	}},
	{name: "image", image: true, all: []step{
		{name: "the first start of an image", do: (*lab).firstStart, always: true},
		{name: "the daemon is stopped, or crashes, in the midst of an installation", do: (*lab).crashes},
		{name: "Tandem updates itself", do: (*lab).itself},
		{name: "the machine ends in order right after the application removed something", do: (*lab).orderlyEnd},
		{name: "the power goes in the midst of an installation", do: (*lab).resets},
		{name: "Tandem has updated itself, and the machine was started", do: (*lab).itselfConfirmed},
		{name: "a Tandem that is of no use", do: (*lab).itselfBroken, long: true},
		{name: "the disk of usr_data is missing, with nofail", do: (*lab).missing},
		{name: "the disk of usr_data is missing, without nofail", do: (*lab).emergency},
		{name: "the disk of system is missing, with nofail", do: (*lab).missingSystem, long: true},
		{name: "a new disk for usr_data, and for system", do: (*lab).erased, long: true},
	}},
}

// chosen are the steps that are carried out; none if there would be only what others
// stand on.
func (s steps) chosen(match *regexp.Regexp, short bool) []step {
	var chosen []step
	some := false
	for _, one := range s.all {
		wanted := match.MatchString(one.name) && !(short && one.long)
		if wanted || one.always {
			chosen, some = append(chosen, one), some || wanted
		}
	}
	if !some {
		return nil
	}
	return chosen
}

// all runs scripts that have to succeed, one after the other.
func (l *lab) all(scripts ...string) error {
	for _, s := range scripts {
		if _, err := l.sh(s); err != nil {
			return err
		}
	}
	return nil
}

// says compares what a script says.
func (l *lab) says(script string, want ...string) error {
	out, _, err := l.try(script)
	if text := strings.Join(want, "\n"); err == nil && out != text {
		err = fmt.Errorf("%s: found %q, expected %q", script, out, text)
	}
	return err
}

// checks are what has to hold, until the first that does not.
func checks(all ...func() error) error {
	for _, check := range all {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) holds(scripts ...string) func() error {
	return func() error { return l.all(scripts...) }
}

func (l *lab) saying(script string, want ...string) func() error {
	return func() error { return l.says(script, want...) }
}

func (l *lab) becomes(what, script string) func() error {
	return func() error { return l.until(what, script) }
}

// noneFailed is true where systemd is content.
const noneFailed = `[ -z "$(systemctl --failed --no-legend)" ]`

// wellScript succeeds where a device is well: the agent and the application run,
// and both sides hold the same.
const wellScript = `systemctl is-active -q tandem-agent && systemctl is-active -q hello &&
cmp /usrapp/apprun/app_ver.txt /usrdata/appbackup/app_ver.txt && cmp /usrapp/apprun/app_ver.txt /usrapp/apprun/apps/version &&
diff -r /usrapp/apprun/apps /usrdata/appbackup/apps && tandem status --json | grep -q '"in_step": true'`

// well waits for a device to be well, with one of these releases.
func (l *lab) well(versions ...string) error {
	if err := l.until("the device is well", wellScript); err != nil {
		return err
	}
	out, err := l.sh("cat /usrapp/apprun/app_ver.txt")
	if err == nil && !strings.Contains(" "+strings.Join(versions, " ")+" ", " "+out+" ") {
		err = fmt.Errorf("it has %s, expected %s", out, strings.Join(versions, " or "))
	}
	l.say("   well, at %s", out)
	return err
}

// installed is the number of the release that the device has.
func (l *lab) installed() (int, error) {
	out, err := l.sh("cat /usrapp/apprun/app_ver.txt")
	if err != nil {
		return 0, err
	}
	for n := range releases - 2 {
		if version(n) == out {
			return n, nil
		}
	}
	return 0, fmt.Errorf("there are not enough releases after %s", out)
}

// installing begins to install the next release, and returns the one that there
// was and the one that there will be.
func (l *lab) installing() (before, after string, err error) {
	n, err := l.installed()
	if err != nil {
		return "", "", err
	}
	_, err = l.sh("systemd-run --quiet --collect --no-block tandem install /lab/" + bundle(n+1))
	return version(n), version(n + 1), err
}

// fresh: the units are enabled, and nothing fails.
func (l *lab) fresh() error {
	if _, err := l.boot(l.ctx, "usrapp", "usrdata"); err != nil {
		return err
	}
	return checks(
		l.holds("mount -o ro LABEL=lab /lab", "dpkg -i /lab/tandem.deb </dev/null"),
		l.saying("systemctl is-enabled tandem-boot tandem-agent", "enabled", "enabled"),
		l.saying("systemd-analyze verify --man=no tandem-boot.service tandem-agent.service"),
		l.saying("systemd-analyze verify --man=no tandem-agent-retry.timer"),
		l.holds("systemctl start tandem-boot tandem-agent", noneFailed),
		l.saying("systemctl is-active tandem-boot tandem-agent", "inactive", "inactive"),
		l.holds(`[ "$(tandem version | cut -d' ' -f2 | sed 's/-\([0-9]*\)-g/+\1.g/; s/-/~/')" = "$(dpkg-query -W -f '${Version}' tandem)" ]`),
	)
}

// configured: the first start backs up what the factory put on system.
func (l *lab) configured() error {
	return checks(
		l.holds("cp /lab/fstab /etc/fstab", "cp /lab/hello.service /etc/systemd/system", "cp /lab/root.json /etc/tandem",
			"cp /lab/tandem.toml /etc", "systemctl daemon-reload", "mount -a",
			"mkdir /usrapp/apprun && cp -a /lab/factory /usrapp/apprun/apps && echo 1.0.0 >/usrapp/apprun/app_ver.txt",
			"systemctl start tandem-boot", "systemctl enable --now hello", "systemctl start tandem-agent", noneFailed),
		func() error { return l.well("1.0.0") },
	)
}

// firstStart: an image with everything in it starts like any device, and makes the
// backup of what the factory put on system.
func (l *lab) firstStart() error {
	return checks(
		func() error { return l.starts("running", "usrapp", "usrdata") },
		l.saying("systemctl is-enabled tandem-boot tandem-agent", "enabled", "enabled"),
		func() error { return l.well("1.0.0") },
	)
}

// watchdog has the agent's watchdog be there with some patience.
func (l *lab) watchdog(patience string) error {
	return l.all("mkdir -p "+dropIns,
		`printf '[Service]\nWatchdogSec=`+patience+`\n' >`+dropIns+"/watchdog.conf",
		"systemctl daemon-reload", "systemctl restart tandem-agent")
}

// dropIns is where the agent's are that a start of the machine forgets.
const dropIns = "/run/systemd/system/tandem-agent.service.d"

// wrongConfiguration: it is told apart from a crash, tried again after a while, and
// at once where somebody wants it.
func (l *lab) wrongConfiguration() error {
	failed := l.becomes("the agent fails", "systemctl is-failed -q tandem-agent")
	was, err := l.sh("cat /usrapp/apprun/app_ver.txt")
	if err != nil {
		return err
	}
	return checks(
		l.holds("echo 'nonsense = 1' >>/etc/tandem.toml", "! systemctl restart tandem-agent"),
		failed,
		l.saying("systemctl show --value -p ExecMainStatus tandem-agent", "78"),
		l.holds("systemctl is-active -q tandem-agent-retry.timer"),
		// Whoever stops it does not want it again.
		l.holds("systemctl stop tandem-agent", "! systemctl is-active -q tandem-agent-retry.timer"),
		l.holds("! systemctl start tandem-agent", "systemctl is-active -q tandem-agent-retry.timer"),
		l.holds("cp /lab/tandem.toml /etc", "systemctl start tandem-agent", "! systemctl is-active -q tandem-agent-retry.timer", noneFailed),
		// Nobody is there to start it.
		l.holds("mkdir -p /run/systemd/system/tandem-agent-retry.timer.d",
			`printf '[Timer]\nOnActiveSec=\nOnActiveSec=8s\n' >/run/systemd/system/tandem-agent-retry.timer.d/soon.conf`,
			"systemctl daemon-reload", "echo 'nonsense = 1' >>/etc/tandem.toml", "! systemctl restart tandem-agent"),
		failed,
		l.holds("cp /lab/tandem.toml /etc"),
		func() error { return l.well(was) },
		l.holds("rm -r /run/systemd/system/tandem-agent-retry.timer.d", "systemctl daemon-reload"),
	)
}

// pid is the agent's process.
const pid = "$(systemctl show --value -p MainPID tandem-agent)"

// crashes: whatever ends the agent, it comes back, and so does the application.
func (l *lab) crashes() error {
	signals := []string{"ABRT", "QUIT", "KILL", "STOP"}
	if l.short {
		signals = []string{"ABRT", "STOP"}
	}
	// The watchdog is there, and has little patience.
	if err := l.watchdog("20s"); err != nil {
		return err
	}
	for _, signal := range signals {
		before, after, err := l.installing()
		if err != nil {
			return err
		}
		wait := float64(l.random.IntN(4000)) / 1000
		l.say("   %s after %.1f s", signal, wait)
		restarts, err := l.sh("systemctl show --value -p NRestarts tandem-agent")
		if err != nil {
			return err
		}
		if err := checks(
			l.holds(fmt.Sprintf("sleep %.1f; kill -%s %s", wait, signal, pid)),
			l.becomes("the agent is started again", fmt.Sprintf(`[ "$(systemctl show --value -p NRestarts tandem-agent)" -gt %s ]`, restarts)),
			func() error { return l.well(before, after) },
		); err != nil {
			return err
		}
	}
	return l.all(noneFailed, "rm -r "+dropIns, "systemctl daemon-reload")
}

// comesBack: what is unmounted is not written below, and what is mounted again is
// taken up again.
func (l *lab) comesBack() error {
	name := func(who string) string { return fmt.Sprintf("echo name=%s >/usrapp/apprun/apps/etc/hello.conf", who) }
	captured := func(who string) func() error {
		return l.becomes("the edit is captured", "grep -qx name="+who+" /usrdata/appbackup/apps/etc/hello.conf")
	}
	return checks(
		l.holds(name("Ada")), captured("Ada"),
		l.holds("rm -rf /usrdata/appbackup", name("Grace")), captured("Grace"),
		l.holds("umount /usrdata", name("Barbara"), "sleep 8", `[ -z "$(ls /usrdata)" ]`),
		l.becomes("the agent says that it is gone", "tandem status | grep -q 'nothing is mounted at /usrdata'"),
		l.holds("mount /usrdata", name("Edsger")), captured("Edsger"),
	)
}

// attributes: what changes nothing of a file but its attributes is captured within
// seconds, as the agent in its sandbox sees them; those of trusted.* do not count.
func (l *lab) attributes() error {
	const live, copied = "/usrapp/apprun/apps/etc/hello.conf", "/usrdata/appbackup/apps/etc/hello.conf"
	return checks(
		l.holds("setfacl -m u:nobody:r "+live),
		l.becomes("the ACL is captured", "getfacl -cp "+copied+" | grep -qx user:nobody:r--"),
		l.holds("setfattr -n user.note -v one "+live),
		l.becomes("the attribute is captured", `[ "$(getfattr --only-values --absolute-names -n user.note `+copied+`)" = one ]`),
		l.holds("setcap cap_net_raw=ep "+live),
		l.becomes("the capability is captured", "getcap "+copied+" | grep -q cap_net_raw=ep"),
		l.holds("setfattr -n trusted.note -v one "+live, "tandem verify", "tandem status --json | grep -q '\"in_step\": true'",
			"setfattr -x trusted.note "+live, "setfattr -x user.note "+live, "setfacl -b "+live, "setcap -r "+live),
		l.becomes("all is as before", "! getfacl -cp "+copied+" | grep -q nobody && [ -z \"$(getcap "+copied+")\" ]"),
	)
}

// ownDirectories: with the drop-in of the book both sides may lie elsewhere, and
// each of them may be removed and made again beside the agent.
func (l *lab) ownDirectories() error {
	name := func(who string) string { return fmt.Sprintf("echo name=%s >/opt/hello/apps/etc/hello.conf", who) }
	captured := func(who string) func() error {
		return l.becomes("the edit is captured", "grep -qx name="+who+" /data/backup/apps/etc/hello.conf")
	}
	return checks(
		l.holds("mkdir -p /opt/hello /data "+dropIns, "cp -a /lab/factory /opt/hello/apps && echo 1.0.0 >/opt/hello/app_ver.txt",
			file(dropIns+"/own.conf", "[Service]\nReadWritePaths=-/opt -/data"),
			file("/etc/tandem.toml", "[device]\ncompatible = [\"qemu\"]\napp = \"hello\"\n[system]\npath = \"/opt/hello\"\n[usr_data]\npath = \"/data/backup\"\n[agent]\nstate = \"/data/state\""),
			"tandem boot", "systemctl daemon-reload", "systemctl restart tandem-agent", name("Ada")),
		captured("Ada"),
		l.holds("rm -rf /data/backup", name("Grace")), captured("Grace"),
		l.holds("rm -rf /data/backup && mkdir -m 700 /data/backup", name("Barbara")), captured("Barbara"),
		l.holds("rm -rf /opt/hello && tandem boot", "grep -qx name=Barbara /opt/hello/apps/etc/hello.conf", name("Edsger")), captured("Edsger"),
		l.holds("cp /lab/tandem.toml /etc", "rm -r "+dropIns+" /opt/hello /data", "systemctl daemon-reload", "systemctl restart tandem-agent", noneFailed),
	)
}

// orderlyEnd: what the application removed as it ended, after the agent's last
// capture, is captured when the machine ends, and stays removed. Nothing else in its
// directory changed: after a power cut it would be damage.
func (l *lab) orderlyEnd() error {
	const apps, copied = "/usrapp/apprun/apps/", "/usrdata/appbackup/apps/"
	n, err := l.installed()
	if err != nil {
		return err
	}
	return checks(
		l.holds("mkdir -p /etc/systemd/system/hello.service.d "+apps+"data",
			file("/etc/systemd/system/hello.service.d/end.conf", "[Service]\nExecStopPost=/bin/sh -c 'rm -f "+apps+"data/late; echo name=last >"+apps+"etc/hello.conf'"),
			"systemctl daemon-reload", "cd "+apps+"data && for f in early late stays; do echo $f >$f; done"),
		l.becomes("they are captured", "cd "+copied+"data && [ -e early ] && [ -e late ] && [ -e stays ]"),
		l.holds("rm "+apps+"data/early"),
		l.shutdown,
		func() error { return l.starts("running", "usrapp", "usrdata") },
		func() error { return l.well(version(n)) },
		l.saying("ls "+apps+"data", "stays"),
		l.saying("ls "+copied+"data", "stays"),
		l.holds("grep -qx name=last "+apps+"etc/hello.conf", "grep -qx name=last "+copied+"etc/hello.conf",
			"rm -r /etc/systemd/system/hello.service.d "+apps+"data", "systemctl daemon-reload", noneFailed),
	)
}

// upgraded: dpkg asks nothing, though the sample is another one, the
// administrator's files stay, and the installation is finished.
func (l *lab) upgraded() error {
	before, after, err := l.installing()
	if err != nil {
		return err
	}
	return checks(
		l.holds("echo '# mine' >>/etc/tandem.toml", "cp /etc/tandem.toml /run/mine", "dpkg -i /lab/newer.deb </dev/null"),
		l.saying("dpkg-query -W -f '${Status}' tandem", "install ok installed"),
		l.holds("dpkg-query -W -f '${Version}' tandem | grep -q newer", "cmp /etc/tandem.toml /run/mine",
			"grep -q 'of the next version' /etc/init.d/tandem-agent"),
		l.saying("systemctl is-enabled tandem-boot tandem-agent", "enabled", "enabled"),
		func() error { return l.well(before, after) },
	)
}

// reinstalled: what was enabled is, and what was not is not.
func (l *lab) reinstalled() error {
	sums := "cd / && find usrapp/apprun/apps usrdata/appbackup/apps etc/tandem etc/tandem.toml -type f | sort | xargs sha256sum"
	before, err := l.sh(sums)
	if err != nil {
		return err
	}
	return checks(
		l.holds("systemctl disable tandem-agent", "systemctl is-active -q tandem-agent",
			"dpkg -r tandem </dev/null", "! systemctl is-active -q tandem-agent", "systemctl is-active -q hello", noneFailed),
		l.saying(sums, before),
		l.holds("dpkg -i /lab/tandem.deb </dev/null"),
		l.saying("systemctl is-enabled tandem-boot tandem-agent", "enabled", "disabled"),
		l.holds("! systemctl is-active -q tandem-agent", "systemctl enable --now tandem-agent", noneFailed),
		l.saying(sums, before),
	)
}

// resets: after the power came back, the device starts with one release or the other.
func (l *lab) resets() error {
	times := 3
	if l.short {
		times = 1
	}
	for range times {
		before, after, err := l.installing()
		if err != nil {
			return err
		}
		wait := float64(l.random.IntN(5000)) / 1000
		l.say("   after %.1f s", wait)
		if err := checks(
			l.holds(fmt.Sprintf("sleep %.1f", wait)),
			l.off,
			func() error { return l.starts("running", "usrapp", "usrdata") },
			l.holds("systemctl is-active -q tandem-boot"),
			func() error { return l.well(before, after) },
		); err != nil {
			return err
		}
	}
	return nil
}

// starts boots into a state of systemd's.
func (l *lab) starts(want string, partitions ...string) error {
	state, err := l.boot(l.ctx, partitions...)
	if err == nil && state != want {
		err = fmt.Errorf("the machine is %s, expected %s", state, want)
	}
	return err
}

// soon has fstab wait for a partition no longer than the book says.
func soon(name, options string) string {
	return "sed -i '/" + name + "/s/nofail,x-systemd.device-timeout=4min/" + options + "x-systemd.device-timeout=10s/' /etc/fstab && sync"
}

// missing: boot refuses, and the agent writes nothing where the partition belongs.
func (l *lab) missing() error {
	return checks(
		l.holds(soon("usrdata", "nofail,")),
		l.off,
		func() error { return l.starts("degraded", "usrapp") },
		l.saying("systemctl --failed --no-legend --plain | cut -d' ' -f1", "tandem-boot.service"),
		l.saying("systemctl show --value -p ExecMainStatus tandem-boot", "12"),
		l.holds("systemctl is-active -q hello"),
		l.becomes("the agent runs", "systemctl is-active -q tandem-agent"),
		l.holds("echo name=Margaret >/usrapp/apprun/apps/etc/hello.conf"),
		l.becomes("the agent says that it is missing", "tandem status | grep -q 'nothing is mounted at /usrdata'"),
		l.holds("sleep 8", `[ -z "$(ls /usrdata)" ]`, "cp /lab/fstab /etc/fstab", "sync"),
		func() error {
			if l.short {
				return nil
			}
			return l.comesBackAtStart()
		},
	)
}

// comesBackAtStart: what was changed meanwhile is backed up.
func (l *lab) comesBackAtStart() error {
	return checks(
		l.shutdown,
		func() error { return l.starts("running", "usrapp", "usrdata") },
		l.holds("grep -qx name=Margaret /usrdata/appbackup/apps/etc/hello.conf"),
	)
}

// missingSystem: the application cannot run, and nothing takes its place.
func (l *lab) missingSystem() error {
	return checks(
		l.holds(soon("usrapp", "nofail,")),
		l.off,
		func() error { return l.starts("degraded", "usrdata") },
		l.saying("systemctl show --value -p ExecMainStatus tandem-boot", "12"),
		l.becomes("the agent runs", "systemctl is-active -q tandem-agent"),
		l.becomes("the agent says that it is missing", "tandem status | grep -q 'nothing is mounted at /usrapp'"),
		l.holds("sleep 3", `[ -z "$(ls /usrapp)" ]`, "cp /lab/fstab /etc/fstab", "sync"),
		l.off,
		func() error { return l.starts("running", "usrapp", "usrdata") },
	)
}

// erased: each side fills the other one at the next start.
func (l *lab) erased() error {
	n, err := l.installed()
	if err != nil {
		return err
	}
	for _, name := range []string{"usrdata", "usrapp"} {
		if err := checks(
			l.holds("sync"),
			l.off,
			func() error { return disk(l.ctx, l.disks[name], name, "64M", "") },
			func() error { return l.starts("running", "usrapp", "usrdata") },
			func() error { return l.well(version(n)) },
		); err != nil {
			return err
		}
	}
	return nil
}

// emergency: a partition that must be there and is not ends in emergency mode,
// after the time that fstab gives it, and Tandem writes nothing.
func (l *lab) emergency() error {
	return checks(
		l.holds(soon("usrdata", "")),
		l.off,
		func() error { return l.starts("maintenance", "usrapp") },
		l.holds("systemctl is-active -q emergency.target", "! systemctl is-active -q tandem-boot", `[ -z "$(ls /usrdata)" ]`),
		func() error {
			if l.short {
				return nil
			}
			return l.afterEmergency()
		},
	)
}

// afterEmergency: with nofail in fstab again, and the partition, the device is well.
func (l *lab) afterEmergency() error {
	return checks(
		l.holds("mount -o remount,rw /", "sed -i '/usrdata/s/ext4 /ext4 nofail,/; s/=10s/=4min/' /etc/fstab", "sync"),
		l.off,
		func() error { return l.starts("running", "usrapp", "usrdata") },
	)
}

// purged: the configuration goes with the package, the application stays. A package
// that comes to a device that is configured already starts its agent.
func (l *lab) purged() error {
	n, err := l.installed()
	if err != nil {
		return err
	}
	return checks(
		l.holds("dpkg -P tandem </dev/null", "[ ! -e /etc/tandem.toml ]", "[ -e /etc/tandem/root.json ]",
			"cmp /usrapp/apprun/app_ver.txt /usrdata/appbackup/app_ver.txt", "systemctl is-active -q hello", noneFailed,
			"! ls /etc/systemd/system/*.wants/tandem-* /etc/rc?.d/*tandem* /etc/init.d/tandem-* 2>/dev/null"),
		l.saying("systemctl is-enabled tandem-agent 2>&1 | tail -1", "Failed to get unit file state for tandem-agent.service: No such file or directory"),
		l.holds("cp /lab/tandem.toml /etc && sync", "dpkg -i /lab/tandem.deb </dev/null"),
		l.saying("systemctl is-enabled tandem-boot tandem-agent", "enabled", "enabled"),
		func() error { return l.well(version(n)) },
	)
}
