package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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
		if err := child.Check(hook.argv); err != nil {
			x.wrong(hook.key, err.Error(), "no update is installed", "mend the program, or correct the configuration")
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
	default:
		x.fine("clock", "it says %s", x.Now.UTC().Format(time.RFC3339))
	}
	if len(x.Config.Agent.Window) > 0 {
		zone, offset := x.Now.Zone()
		x.fine("zone", "[agent] window counts in %s, %s from UTC", zone, time.Duration(offset)*time.Second)
	}
}

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
	root, err := x.Device.Trusted()
	switch {
	case err != nil:
		x.wrong("trust", err.Error(), "no bundle is installed", x.Explain(err).Hint)
	case root == nil:
	case x.Now.After(root.Expires()):
		x.wrong("trust", fmt.Sprintf("version %d of the root expired on %s", root.Version(), root.Expires().UTC().Format(time.DateOnly)),
			"no repository is trusted", "have the repository's root rotated, and install a bundle that brings the new one")
	case x.Now.Add(soon).After(root.Expires()):
		x.wrong("trust", fmt.Sprintf("version %d of the root expires on %s", root.Version(), root.Expires().UTC().Format(time.DateOnly)),
			"after that no repository is trusted", "have the repository's root rotated before")
	default:
		x.fine("trust", "version %d of the root is valid until %s", root.Version(), root.Expires().UTC().Format(time.DateOnly))
	}
}

// soon is how long before its end an expiry is told.
const soon = 30 * 24 * time.Hour

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
	default:
		x.fine("source", "nothing newer than %s", orNone(x.Answer.Installed.String()))
	}
}

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
	relied := []string{c.File, c.Trust.Root, c.Agent.State, c.System.Path, c.UsrData.Path}
	for _, argv := range [][]string{c.Hooks.PreInstall, c.Hooks.Stop, c.Hooks.Start, c.Hooks.Health, c.Hooks.Capture} {
		if len(argv) > 0 && filepath.IsAbs(argv[0]) {
			relied = append(relied, argv[0])
		}
	}
	var secret []string
	if c.Report != nil {
		secret = append(secret, c.Report.TokenFile)
	}
	if c.Source != nil {
		secret = append(secret, c.Source.TokenFile, c.Source.PasswordFile, c.Source.ClientKey)
	}
	for _, name := range relied {
		x.relied(name)
	}
	for _, name := range secret {
		x.secret(name)
	}
	if x.wrongs == bad {
		x.fine("permissions", "nobody else can write what Tandem relies on")
	}
}

func (x *examination) relied(name string) {
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
	}
}

// start looks for what runs tandem at the start of the machine.
func (x *examination) start(context.Context) {
	if where := x.starts("tandem-boot", "tandem boot"); where != "" {
		x.fine("boot", "%s runs tandem boot", where)
	} else {
		x.wrong("boot", "nothing seems to run tandem boot at the start of the machine", "a side that was lost is not filled again, and nothing interrupted is finished",
			"install Tandem's package, or call it in an init script before the application starts")
	}
	where := x.starts("tandem-agent", "tandem agent")
	switch {
	case x.Agent:
		x.fine("agent", "it runs")
	case where != "":
		x.wrong("agent", where+" is there, but the agent does not answer", "edits are not backed up, and no update comes by itself", "start it, and see what its log says")
	default:
		x.note("agent", "none is installed", "it backs up edits within seconds, and takes updates by itself")
	}
}

// starts returns what names a service or calls a command when the machine starts;
// "" if nothing does.
func (x *examination) starts(service, command string) string {
	for _, pattern := range []string{
		"etc/systemd/system/*.wants/" + service + ".service", "etc/systemd/system/*.requires/" + service + ".service",
		"lib/systemd/system/*.wants/" + service + ".service", "usr/lib/systemd/system/*.wants/" + service + ".service",
		"etc/init.d/*", "etc/rc.local", "etc/rc.d/*", "etc/inittab", "etc/crontab", "etc/cron.d/*",
	} {
		names, err := filepath.Glob(filepath.Join(x.Root, pattern))
		if err != nil {
			continue // never: the patterns are well formed
		}
		for _, name := range names {
			if strings.Contains(filepath.Base(name), service) || mentions(name, command) {
				return name
			}
		}
	}
	return ""
}

// mentions reports whether a small text file has some words in it.
func mentions(name, words string) bool {
	const large = 1 << 20
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > large {
		return false
	}
	text, err := os.ReadFile(name)
	return err == nil && bytes.Contains(text, []byte(words))
}
