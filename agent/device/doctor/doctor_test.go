package doctor

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
)

const configuration = `[device]
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = "usr_data"
[trust]
allow_unsigned = true
root = "none.json"
[hooks]
start = ["sh", "-c", "true"]
[agent]
state = "state"
lock = "lock"
`

// machine is a device in a directory, and a machine around it.
type machine struct {
	t   *testing.T
	dir string
	p   Patient
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	m.write("tandem.toml", configuration, 0o644)
	m.write("system/apps/bin/hello", "#!/bin/sh\n", 0o755)
	m.write("system/app_ver.txt", "1.0.0\n", 0o644)
	m.write("root/etc/init.d/tandem-boot", "#!/bin/sh\ntandem boot\n", 0o755)
	m.write("root/proc/sys/fs/inotify/max_user_watches", "8192\n", 0o644)
	m.write("root/proc/sys/fs/inotify/max_user_instances", "128\n", 0o644)
	m.p = Patient{
		Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC),
		Zone: time.UTC, EUID: os.Geteuid(), Root: filepath.Join(m.dir, "root"), Agent: true,
		Explain: func(err error) device.Failure { return device.Failure{Error: err.Error(), Hint: "a hint", Exit: 1} },
	}
	m.open(device.Change, func(d *device.Device) {
		if _, err := d.Boot(t.Context(), "boot", backup.Options{}); err != nil {
			t.Fatal(err)
		}
	})
	return m
}

func (m *machine) write(name, text string, mode os.FileMode) {
	m.t.Helper()
	name = filepath.Join(m.dir, name)
	err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode))
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) open(access device.Access, f func(*device.Device)) {
	m.t.Helper()
	cfg, err := config.Load(filepath.Join(m.dir, "tandem.toml"))
	if err != nil {
		m.t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	d, err := device.Open(cfg, device.Environment{Log: log, Now: time.Now, Random: rand.Reader, EUID: -1, EGID: -1}, access)
	if err != nil {
		m.t.Fatal(err)
	}
	defer d.Close()
	m.p.Config, m.p.Device = cfg, d
	f(d)
}

// wrong returns what would go wrong, in lines; each must say what to do.
func (m *machine) wrong() []string {
	m.t.Helper()
	var lines []string
	m.open(device.Look, func(*device.Device) {
		doc, err := m.p.Examine(m.t.Context())
		for _, f := range doc.Findings {
			if f.Kind != Wrong {
				continue
			}
			if f.Consequence == "" || f.Advice == "" {
				m.t.Errorf("%s: %s: neither consequence nor advice may be missing: %+v", f.About, f.Found, f)
			}
			lines = append(lines, f.About+": "+f.Found)
		}
		if errors.Is(err, ErrFindings) != (len(lines) > 0) || err != nil && !errors.Is(err, ErrFindings) {
			m.t.Errorf("%d findings, but %v", len(lines), err)
		}
	})
	return lines
}

// What is always wrong with a machine of this test.
var usual = []string{"sides: both are on one file system", "trust: allow_unsigned is set"}

// Each thing that would go wrong is found, alone.
func TestExamine(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) func(*machine) {
		return func(m *machine) {
			if !strings.Contains(configuration, old) {
				m.t.Fatalf("the configuration has no %q", old)
			}
			m.write("tandem.toml", strings.Replace(configuration, old, new, 1), 0o644)
		}
	}
	do := func(f func(m *machine) error) func(*machine) {
		return func(m *machine) {
			if err := f(m); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*machine)
		want   string // part of the one finding; "" for none
	}{
		"nothing": {func(*machine) {}, ""},
		"hook":    {replace(`"sh", "-c", "true"`, `"no-such-program"`), "hooks.start: "},
		"a hook that the application brings": {func(m *machine) {
			m.write("tandem.toml", strings.Replace(configuration, `"sh", "-c", "true"`, `"`+m.dir+`/system/apps/bin/start"`, 1), 0o644)
		}, ""},
		"no message bus": {func(m *machine) { m.write("root/run/systemd/system/x", "", 0o644) }, "hooks: systemd cannot be asked to run them"},
		"a message bus": {func(m *machine) {
			m.write("root/run/systemd/system/x", "", 0o644)
			m.write("root/run/dbus/system_bus_socket", "", 0o644)
		}, ""},
		"no hook that needs it": {func(m *machine) {
			m.write("root/run/systemd/system/x", "", 0o644)
			m.write("bin/systemctl", "#!/bin/sh\n", 0o755)
			m.write("tandem.toml", strings.Replace(configuration, `"sh", "-c", "true"`, `"`+m.dir+`/bin/systemctl", "start", "hello"`, 1), 0o644)
		}, ""},
		"not mounted":        {replace("path = \"usr_data\"\n", "path = \"usr_data\"\nmount = \"usr_data\"\n"), "usr_data: a side cannot be used: usr_data: nothing is mounted"},
		"clock behind":       {func(m *machine) { m.p.Now = time.Unix(0, 0) }, "clock: it says 1970-01-01T00:00:00Z"},
		"clock ahead":        {func(m *machine) { m.p.Now = m.p.Now.AddDate(40, 0, 0) }, "clock: it says 2066-"},
		"no boot script":     {do(func(m *machine) error { return os.Remove(filepath.Join(m.p.Root, "etc/init.d/tandem-boot")) }), "boot: nothing seems to run tandem boot"},
		"agent does not run": {func(m *machine) { m.write("root/etc/init.d/tandem-agent", "", 0o755); m.p.Agent = false }, "agent: "},
		"watches":            {func(m *machine) { m.write("root/proc/sys/fs/inotify/max_user_watches", "1\n", 0o644) }, "watch: fs.inotify.max_user_watches is 1"},
		"open configuration": {do(func(m *machine) error { return os.Chmod(filepath.Join(m.dir, "tandem.toml"), 0o666) }), "permissions: "},
		"open token": {func(m *machine) {
			m.write("token", "secret", 0o644)
			m.write("tandem.toml", configuration+"[report]\nurl = \"http://127.0.0.1:1/\"\ntoken_file = \"token\"\n", 0o644)
		}, "permissions: "},
		"no zone, which nothing counts in": {func(m *machine) { m.p.ZoneErr = errors.New("TZ names no zone") }, ""},
		"no zone": {func(m *machine) {
			m.p.ZoneErr = errors.New("TZ names no zone")
			m.write("tandem.toml", configuration+"window = [\"02:00-04:00\"]\n", 0o644)
		}, "zone: TZ names no zone"},
		"a boot script that is no program": {do(func(m *machine) error {
			return os.Chmod(filepath.Join(m.p.Root, "etc/init.d/tandem-boot"), 0o644)
		}), "boot: "},
		"a boot script that is called by nothing": {func(m *machine) { m.write("root/etc/rc2.d/README", "", 0o644) }, "boot: "},
		"a boot script that a link calls":         {func(m *machine) { m.write("root/etc/rc2.d/S20tandem-boot", "#!/bin/sh\n", 0o755) }, ""},
		"a boot script after the agent's": {func(m *machine) {
			m.write("root/etc/rc2.d/S20tandem-boot", "#!/bin/sh\n", 0o755)
			m.write("root/etc/rc2.d/S19tandem-agent", "#!/bin/sh\n", 0o755)
		}, "boot: "},
		"only a comment calls it": {do(func(m *machine) error {
			m.write("root/etc/rc.local", "#!/bin/sh\n# tandem boot\n", 0o755)
			return os.Remove(filepath.Join(m.p.Root, "etc/init.d/tandem-boot"))
		}), "boot: nothing seems to run tandem boot"},
		"recalled": {func(m *machine) {
			m.p.Answer = &device.Answer{Recall: &device.Recalled{Stays: "nothing to return to"}}
		}, "application:  is recalled by its publisher, and stays: nothing to return to"},
		"recalled, and something is kept": {func(m *machine) { m.p.Answer = &device.Answer{Recall: &device.Recalled{}} }, ""},
		"a firmware's handler": {func(m *machine) {
			m.p.Answer = &device.Answer{Firmware: []device.AnswerFirmware{{Name: "modem", Error: "it does not answer"}}}
		}, "firmware modem: it does not answer"},
		"no room for what is offered": {func(m *machine) {
			m.p.Answer = &device.Answer{Available: true, Download: 1 << 60}
		}, "state: "},
		"an open directory": {do(func(m *machine) error { return os.Chmod(m.dir, 0o777) }), "permissions: "},
		"an open script of a hook": {func(m *machine) {
			m.write("start.sh", "", 0o666)
			if err := os.Chmod(filepath.Join(m.dir, "start.sh"), 0o666); err != nil {
				m.t.Fatal(err)
			}
			m.write("tandem.toml", strings.Replace(configuration, `"-c", "true"`, `"`+m.dir+`/start.sh"`, 1), 0o644)
		}, "permissions: "},
		"what is Tandem's is open": {do(func(m *machine) error { return os.Chmod(filepath.Join(m.dir, "system/.tandem"), 0o755) }), "permissions: "},
		"source":                   {func(m *machine) { m.p.AnswerErr = errors.New("no answer") }, "source: no answer"},
		"not in step":              {do(func(m *machine) error { return os.RemoveAll(filepath.Join(m.dir, "usr_data")) }), "usr_data: nothing is there"},
		"damaged":                  {func(m *machine) { m.write("usr_data/apps/bin/hello", "something else\n", 0o755) }, "usr_data: it is damaged"},
		"signed wanted":            {replace("allow_unsigned = true\n", ""), "trust: no root of trust"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			c.change(m)
			var got []string
			for _, l := range m.wrong() {
				if !slices.Contains(usual, l) {
					got = append(got, l)
				}
			}
			if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
				t.Errorf("found %q, want one that begins with %q", got, c.want)
			}
		})
	}
}

// A device that has nothing said to it is told so, and not that a file can be read
// that is not there.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("tandem.toml", strings.Replace(configuration, `app = "hello"`+"\n", "", 1), 0o644)
	m.open(device.Look, func(*device.Device) {
		m.p.Config.File = filepath.Join(m.dir, "none.toml")
		doc, _ := m.p.Examine(t.Context())
		var got []string
		for _, f := range doc.Findings {
			if f.About == "configuration" || f.About == "device" {
				got = append(got, string(f.Kind)+" "+f.About+": "+f.Found)
			}
		}
		want := []string{"note configuration: " + m.p.Config.File + " is not there: each key has its default", "wrong device: it has no app or no compatible"}
		if !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
	})
}

// Nothing is said of what a side has that cannot be looked at.
func TestOtherSideUnknown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("tandem.toml", strings.Replace(configuration, "path = \"usr_data\"\n", "path = \"usr_data\"\nmount = \"usr_data\"\n", 1), 0o644)
	if err := os.RemoveAll(filepath.Join(m.dir, "system")); err != nil {
		t.Fatal(err)
	}
	m.open(device.Look, func(*device.Device) {
		doc, _ := m.p.Examine(t.Context())
		for _, f := range doc.Findings {
			if f.About == "system" && f.Consequence != "the other side may have the application" {
				t.Errorf("found %+v", f)
			}
		}
	})
}

// On a device without an application that is told once.
func TestNoApplication(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, side := range []string{"system", "usr_data"} {
		if err := os.RemoveAll(filepath.Join(m.dir, side)); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.wrong(); len(got) != 2 || got[0] != "application: there is none on either side" {
		t.Errorf("found %q", got)
	}
}
