package main

import "strings"

// The Tandems that the lab brings: one that is newer than the package's, and one that
// passes its test and then crashes.
const (
	newTandem    = "99.0.0"
	brokenTandem = "99.1.0"
)

func itselfBundle(version string) string { return "tandem-" + version + ".tandem" }

// process is the agent's process, how often it was started again, and its socket.
const process = `echo $(systemctl show --value -p MainPID -p NRestarts tandem-agent) $(stat -c %i /run/tandem.sock)`

// runs succeeds where a Tandem is the one in place, and the agent is that program.
func runs(version string) string {
	return `tandem version | grep -q '^tandem ` + version + ` ' && [ "$(readlink /proc/` + pid + `/exe)" = /usr/lib/tandem/tandem ] && ` + idle
}

// itself: the agent goes on as the new program, as the same process of the same unit,
// with the socket that it has and the watchdog that it answers, and does its work.
func (l *lab) itself() error {
	if err := checks(
		func() error { return l.watchdog("60s") },
		l.becomes("the agent is idle", idle),
	); err != nil {
		return err
	}
	n, err := l.installed()
	if err != nil {
		return err
	}
	before, err := l.sh(process)
	if err != nil {
		return err
	}
	answered, err := l.sh("systemctl show --value -p WatchdogTimestampMonotonic tandem-agent")
	if err != nil {
		return err
	}
	return checks(
		l.holds("tandem install /lab/"+itselfBundle(newTandem)+" | grep -q 'installed tandem "+newTandem+" '"),
		l.becomes("the agent goes on as the new program", runs(newTandem)),
		l.saying(process, before),
		l.holds("systemctl is-active -q tandem-agent", "[ -e /usr/lib/tandem/tandem.trial ]", noneFailed,
			"echo name=Radia >/usrapp/apprun/apps/etc/hello.conf"),
		l.becomes("an edit is captured", "grep -qx name=Radia /usrdata/appbackup/apps/etc/hello.conf"),
		l.becomes("the watchdog is answered", `[ "$(systemctl show --value -p WatchdogTimestampMonotonic tandem-agent)" -gt `+answered+" ]"),
		func() error {
			if l.short {
				return nil
			}
			return l.itselfWatched()
		},
		func() error { return l.well(version(n)) },
	)
}

// itselfWatched: the watchdog has the new program started again, and that alone is no
// verdict on it.
func (l *lab) itselfWatched() error {
	return checks(
		l.holds("kill -STOP "+pid),
		l.becomes("the agent is started again", `[ "$(systemctl show --value -p NRestarts tandem-agent)" -gt 0 ]`),
		l.becomes("the agent is the new program", runs(newTandem)),
	)
}

// itselfConfirmed: a Tandem that has started the machine, and was idle for a while, is
// kept on usr_data.
func (l *lab) itselfConfirmed() error {
	if !strings.Contains(l.installedTandem(), newTandem) { // that step was not chosen
		return nil
	}
	if err := l.becomes("it is confirmed", "! [ -e /usr/lib/tandem/tandem.trial ] && "+runs(newTandem))(); err != nil {
		return err
	}
	return l.all("tandem version --json | tr -d ' \\n' | grep -q '\"kept\":\""+newTandem+"\"'", "[ -n \"$(ls /usrdata/appbackup/.tandem/self)\" ]", noneFailed)
}

func (l *lab) installedTandem() string {
	out, _, _ := l.try("tandem version") // a machine that does not answer is told of by what comes next
	return out
}

// itselfBroken: a Tandem that crashes in the agent, or when the machine starts, is
// replaced by the one before, and never taken again.
func (l *lab) itselfBroken() error {
	n, err := l.installed()
	if err != nil {
		return err
	}
	tandem := strings.Fields(l.installedTandem() + " - -")[1]
	back := func() error {
		return checks(
			l.becomes("the Tandem before is back", runs(tandem)),
			l.holds("tandem status | grep -q 'revoked: tandem "+brokenTandem+"'", noneFailed),
			l.saying("tandem install /lab/"+itselfBundle(brokenTandem)+" >/dev/null 2>&1; echo $?", "23"),
			func() error { return l.well(version(n)) },
		)
	}
	return checks(
		l.holds("tandem install /lab/"+itselfBundle(brokenTandem)),
		back,
		// Where no agent runs, the first to try is the start of the machine.
		l.holds("systemctl stop tandem-agent", "tandem install --allow-revoked /lab/"+itselfBundle(brokenTandem), "[ -e /usr/lib/tandem/tandem.trial ]", "sync"),
		l.off,
		func() error { return l.starts("running", "usrapp", "usrdata") },
		l.holds("journalctl -b -u tandem-boot | grep -q 'going back to the program before'"),
		back,
	)
}
