package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/internal/child"
)

// programs looks whether hooks and handlers can be run.
func (x *examination) programs(context.Context) {
	h := &x.Config.Hooks
	hooks := []program{
		{"hooks.pre_install", h.PreInstall}, {"hooks.stop", h.Stop}, {"hooks.start", h.Start}, {"hooks.health", h.Health}, {"hooks.capture", h.Capture},
	}
	for _, f := range x.Config.Firmware {
		hooks = append(hooks, program{"firmware " + f.Name, f.Handler})
	}
	for _, hook := range hooks {
		if len(hook.argv) == 0 {
			continue
		}
		consequence := "no update is installed"
		switch {
		case hook.key == "hooks.capture":
			consequence = "the application does not hold still while its configuration is captured"
		case strings.HasPrefix(hook.key, "firmware "):
			consequence = "no update of that firmware is installed"
		}
		if err := child.Check(hook.argv); err != nil && x.Device.Shipped(strings.TrimPrefix(hook.key, "hooks."), hook.argv) {
			x.note(hook.key, err.Error(), "a version that does not bring it is rolled back")
		} else if err != nil {
			x.wrong(hook.key, err.Error(), consequence, "correct the program, or the configuration")
		} else {
			x.fine(hook.key, "%s can be run", hook.argv[0])
		}
	}
	x.units(hooks)
	if len(h.Health) == 0 {
		x.note("hooks.health", "there is none", "with one, a version that does not work is taken back by itself")
	}
}

// units looks whether systemd, where it runs, can be asked to run hooks and
// handlers, as it is best done.
func (x *examination) units(hooks []program) {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(x.Root, name))
		return err == nil
	}
	if !there("run/systemd/system") {
		return
	}
	asks := func(p program) bool { return len(p.argv) == 0 || filepath.Base(p.argv[0]) == "systemctl" }
	if !there("run/dbus/system_bus_socket") && slices.ContainsFunc(hooks, func(p program) bool { return !asks(p) }) {
		x.wrong("hooks", "systemd cannot be asked to run them: there is no message bus",
			"they run inside the sandbox of tandem-agent.service, and what they leave running ends with it", "install the package dbus")
	}
	for _, p := range hooks {
		if p.key == "hooks.start" && !asks(p) {
			x.note(p.key, "it does not ask systemd", `an application is best a unit of its own, with start = ["systemctl", "start", NAME]`)
		}
	}
}

// program is a command of the configuration.
type program struct {
	key  string
	argv []string
}

// clock looks at time and zone.
func (x *examination) clock(context.Context) {
	const far = 20 * 365 * 24 * time.Hour
	switch {
	case !x.Built.IsZero() && x.Now.Before(x.Built):
		x.wrong("clock", fmt.Sprintf("it says %s, which is before this program was built", x.Now.UTC().Format(time.RFC3339)),
			"servers' certificates seem not to be valid yet, and the history has wrong times", "set the clock, such as from the network")
	case !x.Built.IsZero() && x.Now.After(x.Built.Add(far)):
		x.wrong("clock", fmt.Sprintf("it says %s", x.Now.UTC().Format(time.RFC3339)),
			"everything that is signed for a time seems to have expired", "set the clock, such as from the network")
	case x.hasState() && x.Device.ClockBehind():
		x.wrong("clock", fmt.Sprintf("it says %s, and what the repository signed later was seen already", x.Now.UTC().Format(time.RFC3339)),
			"with [agent] window nothing is installed, and the history has wrong times", "set the clock, such as from the network")
	default:
		x.fine("clock", "it says %s", x.Now.UTC().Format(time.RFC3339))
	}
	windows := len(x.Config.Agent.Window) > 0
	switch {
	case x.ZoneErr != nil && windows:
		x.wrong("zone", x.ZoneErr.Error(), "[agent] window is taken for hours of UTC: updates are installed at other times than you want", zoneAdvice)
	case x.ZoneErr != nil:
		x.note("zone", x.ZoneErr.Error(), zoneAdvice+", before you set [agent] window")
	case windows:
		zone, offset := x.Now.In(x.Zone).Zone()
		x.fine("zone", "[agent] window counts in %s, %s from UTC", zone, time.Duration(offset)*time.Second)
	}
}

// hasState reports whether the agent's state is there: nothing is made to look at it.
func (x *examination) hasState() bool {
	_, err := os.Stat(x.Config.Agent.State)
	return err == nil
}

const zoneAdvice = "name a zone in TZ, /etc/localtime or /etc/TZ, such as CET-1CEST,M3.5.0,M10.5.0/3"

// watch looks whether the kernel can tell the agent of edits.
func (x *examination) watch(context.Context) {
	directories := 0
	_ = filepath.WalkDir(filepath.Join(x.Config.System.Path, "apps"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			directories++
		}
		return nil // what cannot be read is told elsewhere
	})
	for name, need := range map[string]int{"max_user_watches": directories + 1, "max_user_instances": 1} {
		text, err := os.ReadFile(filepath.Join(x.Root, "proc/sys/fs/inotify", name))
		if err != nil {
			continue
		}
		if limit, err := strconv.Atoi(string(bytes.TrimSpace(text))); err == nil && limit < need {
			x.wrong("watch", fmt.Sprintf("fs.inotify.%s is %d, %d are needed", name, limit, need),
				"the agent has to look for edits by itself, and backs them up later", "raise it with sysctl")
			return
		}
	}
	x.fine("watch", "edits in %d directories can be noticed at once", directories)
}

// trust looks at the root of trust.
func (x *examination) trust(context.Context) {
	if x.Config.Trust.AllowUnsigned {
		x.wrong("trust", "allow_unsigned is set", "whoever can reach the device or its source can install anything", "remove it from [trust]")
	}
	all, now, err := x.Device.Expiries()
	if err != nil {
		x.wrong("trust", err.Error(), "no bundle is installed", x.Explain(err).Hint)
	}
	for _, e := range all {
		x.expiry(e.Role, e.Expires, now)
	}
}

// How long before its end an expiry is told: what is signed offline may need a
// journey, and a timer should be at work for the rest.
const (
	soon       = 30 * 24 * time.Hour
	soonOnline = 24 * time.Hour
)

// expiry says until when metadata is valid.
func (x *examination) expiry(role string, at, now time.Time) {
	what := fmt.Sprintf("the %s metadata of the repository", role)
	before, consequence, advice := soon, "nothing that the repository offers is taken", "have the repository's list of releases signed anew"
	switch role {
	case "root":
		what, consequence, advice = "the root", "no repository is trusted", "have the repository's root rotated, and install a bundle that brings the new one"
	case "timestamp", "snapshot":
		before, advice = soonOnline, "have the repository refreshed, by a timer; if it was, see why its news does not come here"
	case "targets":
	default:
		what, consequence = fmt.Sprintf("the list of the delegated role %s", role), "its releases are not taken"
		advice = "have it signed anew by those whom it is delegated to"
	}
	until := at.UTC().Format(time.RFC3339)
	switch {
	case now.After(at):
		x.wrong("trust", fmt.Sprintf("%s expired on %s", what, until), consequence, advice)
	case now.Add(before).After(at):
		x.wrong("trust", fmt.Sprintf("%s expires on %s", what, until), "after that "+consequence, advice)
	default:
		x.fine("trust", "%s is valid until %s", what, until)
	}
}

// source tells what the source has for this device.
func (x *examination) source(context.Context) {
	switch {
	case x.AnswerErr != nil:
		f := x.Explain(x.AnswerErr)
		x.wrong("source", f.Error, "no update comes from there", f.Hint)
	case x.Answer == nil:
		x.note("source", "there is none", "updates come by hand: tandem install FILE")
	case x.Answer.Available:
		x.fine("source", "%s %s is available", x.Answer.App, x.Answer.Version)
		x.roomToDownload()
	default:
		x.fine("source", "nothing newer than %s", orNone(x.Answer.Installed.String()))
	}
	if x.Answer == nil {
		return
	}
	for _, f := range x.Answer.Firmware {
		if f.Error != "" {
			x.wrong("firmware "+f.Name, f.Error, "no update of it is installed", "see whether its handler and the source work")
		}
	}
	switch r := x.Answer.Recall; {
	case r == nil:
	case r.Stays != "":
		x.wrong("application", fmt.Sprintf("%s is recalled by its publisher, and stays: %s", r.Version, r.Stays),
			"a release goes on running that its publisher thinks bad", "install another version, or ask the publisher for a higher one")
	default:
		x.note("application", fmt.Sprintf("%s is recalled by its publisher", r.Version), fmt.Sprintf("tandem update returns to %s at once; the agent does by itself", r.To))
	}
}

// roomToDownload looks whether what is offered fits into the agent's state.
func (x *examination) roomToDownload() {
	var st unix.Statfs_t
	if unix.Statfs(x.Config.Agent.State, &st) != nil {
		return // it is made when it is needed
	}
	if need, free := x.Answer.Download, int64(st.Bavail)*int64(st.Bsize); free < need {
		x.wrong("state", fmt.Sprintf("%s: %d bytes are free, the update has %d to be downloaded", x.Config.Agent.State, free, need),
			"it is not downloaded", "make room there")
	}
}

// state looks whether the agent can keep what it must between two starts.
func (x *examination) state(context.Context) {
	dir := x.Config.Agent.State
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case err != nil:
		return // it is made when it is needed, or told where it matters
	case st.Flags&unix.ST_RDONLY != 0:
		x.wrong("state", dir+": it is mounted read-only", "nothing is downloaded or remembered, and no metadata is trusted for long", "mount it read-write, or name another directory as state in [agent]")
	case int64(st.Bavail)*int64(st.Bsize) < leastState, st.Files > 0 && st.Ffree < leastFiles:
		x.wrong("state", fmt.Sprintf("%s: %d bytes and %d files are free", dir, int64(st.Bavail)*int64(st.Bsize), st.Ffree),
			"nothing is downloaded or remembered", "make room there")
	default:
		x.fine("state", "%s can be written", dir)
	}
}

// What the agent's own files need at least.
const (
	leastState = 1 << 20
	leastFiles = 16
)

func orNone(version string) string {
	if version == "" {
		return "none"
	}
	return version
}

// permissions looks who could change what Tandem relies on, and who can read what
// is secret.
func (x *examination) permissions(context.Context) {
	c, bad := x.Config, x.wrongs
	relied := []string{
		c.File, c.Trust.Root, c.Agent.State, c.System.Path, filepath.Join(c.System.Path, "apps"), c.UsrData.Path, filepath.Join(c.UsrData.Path, "apps"),
	}
	programs := [][]string{c.Hooks.PreInstall, c.Hooks.Stop, c.Hooks.Start, c.Hooks.Health, c.Hooks.Capture}
	for _, f := range c.Firmware {
		programs = append(programs, f.Handler)
	}
	for _, argv := range programs {
		for i, arg := range argv { // a script may be an argument of its interpreter
			if i == 0 && !strings.Contains(arg, "/") {
				arg, _ = exec.LookPath(arg) // "" where there is none, which is told above
			}
			if filepath.IsAbs(arg) {
				relied = append(relied, arg)
			}
		}
	}
	var secret []string
	if c.Report != nil {
		secret = append(secret, c.Report.TokenFile)
		relied = append(relied, c.Report.CA)
	}
	if c.Source != nil {
		secret = append(secret, c.Source.TokenFile, c.Source.PasswordFile, c.Source.ClientKey, c.Source.DDI.TargetTokenFile, c.Source.DDI.GatewayTokenFile)
		relied = append(relied, c.Source.CA)
	}
	seen := map[string]bool{}
	for _, name := range relied {
		x.relied(name, seen)
	}
	for _, name := range secret {
		x.secret(name)
	}
	for _, side := range []string{c.System.Path, c.UsrData.Path} {
		own := filepath.Join(side, ".tandem")
		if info, err := os.Stat(own); err == nil && info.Mode().Perm()&0o077 != 0 {
			x.wrong("permissions", fmt.Sprintf("%s: mode %04o: others can read it", own, info.Mode().Perm()),
				"what the version before and what was put aside hold is open to other users", "chmod 700 "+own)
		}
	}
	if x.wrongs == bad {
		x.fine("permissions", "nobody else can write what Tandem relies on")
	}
}

// relied looks who could change a file or directory, and those that it lies in: with
// one of them another file can be put in its place.
func (x *examination) relied(name string, seen map[string]bool) {
	if !filepath.IsAbs(name) {
		return
	}
	for ; !seen[name]; name = filepath.Dir(name) {
		seen[name] = true
		x.writers(name)
	}
}

func (x *examination) writers(name string) {
	info, err := os.Stat(name)
	if err != nil {
		return // told where it matters
	}
	const consequence = "whoever can write it can have anything run as Tandem's user"
	if mode := info.Mode().Perm(); mode&0o022 != 0 && info.Mode()&os.ModeSticky == 0 {
		x.wrong("permissions", fmt.Sprintf("%s: mode %04o: others can write it", name, mode), consequence, "chmod go-w "+name)
	}
	if uid, ok := owner(info); ok && uid != 0 && uid != x.EUID {
		x.wrong("permissions", fmt.Sprintf("%s: user %d owns it", name, uid), consequence, "chown root "+name)
	}
}

func (x *examination) secret(name string) {
	if name == "" {
		return
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		x.wrong("permissions", err.Error(), "the server does not know this device", "put the file there, or correct the configuration")
	case info.Mode().Perm()&0o077 != 0:
		x.wrong("permissions", fmt.Sprintf("%s: mode %04o: others can read it", name, info.Mode().Perm()),
			"whoever can read it can pass for this device", "chmod 600 "+name)
	default:
		if uid, ok := owner(info); ok && uid != 0 && uid != x.EUID {
			x.wrong("permissions", fmt.Sprintf("%s: user %d owns it", name, uid), "that user can pass for this device", "chown root "+name)
		}
	}
}
