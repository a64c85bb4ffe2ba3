package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// write puts a configuration into a directory of its own.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tandem.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func loader(t *testing.T, machineID string) Loader {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(file, []byte(machineID), 0o600); err != nil {
		t.Fatal(err)
	}
	return Loader{MachineID: file}
}

func weekdays() (w Window) {
	w.Days = [7]bool{1: true, 2: true, 3: true, 4: true, 5: true}
	w.From, w.To = 120, 270
	return w
}

func TestEveryKey(t *testing.T) {
	file, err := filepath.Abs("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(file), name) }
	want := &Config{
		File:    file,
		Device:  Device{ID: "gate-17", Compatible: []string{"quectel-ec25"}, App: "hello"},
		System:  Side{Path: "/usrapp/apprun", Mount: "/usrapp", Remount: true},
		UsrData: Side{Path: "/usrdata/appbackup", Mount: "/usrdata"},
		Trust:   Trust{Root: "/etc/tandem/root.json"},
		Source: &Source{
			Type: Repo, URL: "https://updates.example.com/hello", Channels: []string{"stable"},
			CA: beside("ca.pem"), ClientCert: beside("client.pem"), ClientKey: beside("client.key"),
			User: "gate-17", PasswordFile: beside("password"), Bandwidth: 200 << 10,
			DDI: DDI{Tenant: "DEFAULT"},
		},
		Agent: Agent{
			State: "/usrdata/tandem", Lock: "/run/tandem.lock", Backup: Immediate, Boots: 3,
			Socket: "/run/tandem.sock", PID: "/run/tandem.pid", Log: Stderr,
			Poll: time.Hour, Metered: true, Window: []Window{weekdays()}, Urgent: true,
			Trial: 10 * time.Minute, Scrub: 24 * time.Hour, ScrubBandwidth: 4 << 20,
		},
		Report: &Report{URL: "https://reports.example.com/devices", Format: OTLP, Metrics: 10 * time.Minute, Compression: Gzip, CA: beside("ca.pem"), TokenFile: beside("token")},
		Hooks: Hooks{
			PreInstall:    []string{"/usr/bin/test", "-e", "/run/quiet"},
			Stop:          []string{"systemctl", "stop", "hello"},
			Start:         []string{"systemctl", "start", "hello"},
			Health:        []string{filepath.Join(filepath.Dir(file), "health.sh")},
			HealthTimeout: time.Minute,
		},
		Firmware: []Firmware{
			{Name: "modem", Handler: []string{"/usr/sbin/modem-update"}},
			{Name: "boot", Handler: []string{"boot-update", "--quiet"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("full.toml (-want +got):\n%s", diff)
	}
}

// The sample of the design, and a file that says nothing, give the same but
// for what has no default.
func TestDefaults(t *testing.T) {
	l := loader(t, "0123abcd\n")
	sample, err := l.Load("testdata/design.toml")
	if err != nil {
		t.Fatal(err)
	}
	empty, err := l.Load(write(t, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if sample.Device.ID != "0123abcd" {
		t.Errorf("device.id %q, want the machine's", sample.Device.ID)
	}
	if empty.Source != nil {
		t.Errorf("a source without [source]: %v", empty.Source)
	}
	sample.File, sample.Source = empty.File, nil
	sample.Device.App, sample.Device.Compatible = "", nil
	if diff := cmp.Diff(sample, empty, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("defaults (-sample +empty):\n%s", diff)
	}
}

func TestRelativePaths(t *testing.T) {
	file := write(t, `
[system]
path = "sys"
mount = "."
[usr_data]
path = "./data/backup/"
[trust]
root = "../root.json"
[source]
url = "file:repo/x"
[agent]
state = "state"
lock = "/run/x/../lock"
[hooks]
stop = ["bin/stop", "./arg"]
start = ["start"]
[[firmware]]
name = "modem"
handler = ["./modem"]
`)
	c, err := Loader{MachineID: filepath.Join(t.TempDir(), "none")}.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	for _, tt := range []struct{ what, got, want string }{
		{"system.path", c.System.Path, dir + "/sys"},
		{"system.mount", c.System.Mount, dir},
		{"usr_data.path", c.UsrData.Path, dir + "/data/backup"},
		{"usr_data.mount", c.UsrData.Mount, ""}, // its default belongs to the default path
		{"trust.root", c.Trust.Root, filepath.Dir(dir) + "/root.json"},
		{"source.url", c.Source.URL, "file://" + dir + "/repo/x"},
		{"agent.state", c.Agent.State, dir + "/state"},
		{"agent.lock", c.Agent.Lock, "/run/lock"},
		{"agent.socket", c.Agent.Socket, "/run/lock.sock"},
		{"agent.pid_file", c.Agent.PID, "/run/lock.pid"},
		{"hooks.stop", strings.Join(c.Hooks.Stop, " "), dir + "/bin/stop ./arg"},
		{"hooks.start", strings.Join(c.Hooks.Start, " "), "start"},
		{"firmware.handler", strings.Join(c.Firmware[0].Handler, " "), dir + "/modem"},
		{"device.id", c.Device.ID, ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %q, want %q", tt.what, tt.got, tt.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"syntax", "[agent]\npoll = \n", `:2: agent.poll: not TOML: expected value but found '\n' instead`},
		{"same key twice", "[agent]\nboots = 1\nboots = 2\n", `:3: agent.boots: not TOML: Key 'agent.boots' has already been defined.`},
		{"unknown section", "\n[agnet]\npoll = \"1h\"\n", `:2: agnet: unknown key: the file knows agent, device, firmware, hooks, page, report, source, system, trust, usr_data`},
		{"key outside sections", "poll = \"1h\"\n", `:1: poll: unknown key: the file knows agent, device, firmware, hooks, page, report, source, system, trust, usr_data`},
		{"unknown key", "[system]\npath = \"/a\"\nremont = true\n", `:3: system.remont: unknown key: [system] knows mount, path, remount`},
		{"other case", "[system]\nPath = \"/a\"\n", `:2: system.Path: unknown key: [system] knows mount, path, remount`},
		{"unknown table", "[agent.poll]\nx = 1\n", `:1: agent.poll: found a section: expected a duration such as "90s" or "1h"`},
		{"section is a value", "agent = 3\n", `:1: agent: found the number 3: expected a section [agent]`},
		{"section is a list", "[[agent]]\npoll = \"1h\"\n", `:1: agent: found a list of sections: expected a section [agent]`},
		{"text wanted", "[device]\napp = 7\n", `:2: device.app: found the number 7: expected a text in quotes`},
		{"boolean wanted", "[system]\nremount = \"yes\"\n", `:2: system.remount: found the text "yes": expected true or false`},
		{"list wanted", "[device]\ncompatible = \"ec25\"\n", `:2: device.compatible: found the text "ec25": expected a list of texts`},
		{"list of texts wanted", "[hooks]\nstop = [\"a\", 1]\n", `:2: hooks.stop: found the number 1 in the list: expected a list of texts`},
		{"number wanted", "[agent]\nboots = \"3\"\n", `:2: agent.boots: found the text "3": expected a whole number`},
		{"no fraction", "[agent]\nboots = 1.5\n", `:2: agent.boots: found the number 1.5: expected a whole number`},
		{"duration as number", "[agent]\n\npoll = 60\n", `:3: agent.poll: found the number 60: expected a duration such as "90s" or "1h"`},
		{"no duration", "[agent]\nscrub = \"daily\"\n", `:2: agent.scrub: "daily" is no duration: expected one such as "90s" or "1h"`},
		{"no time at all", "[agent]\npoll = \"0s\"\n", `:2: agent.poll: "0s" is too short: expected at least "1s"`},
		{"backwards", "[hooks]\nhealth_timeout = \"-1m\"\n", `:2: hooks.health_timeout: "-1m" is too short: expected at least "1s"`},
		{"no boots", "[agent]\nboots = 0\n", `:2: agent.boots: 0 is out of range: expected 1 to 1000`},
		{"backup policy", "[agent]\nbackup = \"never\"\n", `:2: agent.backup: "never" is unknown: expected "immediate" or "confirmed"`},
		{"source type", "[source]\ntype = \"ftp\"\n", `:2: source.type: "ftp" is unknown: expected "repo" or "hawkbit"`},
		{"no url", "[device]\n[source]\nchannels = [\"beta\"]\n", `:2: source: has no url: expected one such as "https://updates.example.com/hello"`},
		{"empty url", "[source]\nurl = \"\"\n", `:2: source.url: "" has no scheme: expected a URL such as "https://updates.example.com/hello"`},
		{"no scheme", "[source]\nurl = \"updates.example.com\"\n", `:2: source.url: "updates.example.com" has no scheme: expected a URL such as "https://updates.example.com/hello"`},
		{"other scheme", "[source]\nurl = \"ftp://x/y\"\n", `:2: source.url: "ftp://x/y" has the scheme ftp: expected http, https or file`},
		{"no host", "[source]\nurl = \"https:///y\"\n", `:2: source.url: "https:///y" names no host: expected a URL such as "https://updates.example.com/hello"`},
		{"query", "[source]\nurl = \"https://x/y?z=1\"\n", `:2: source.url: "https://x/y" has a query or a fragment: expected a URL such as "https://updates.example.com/hello"`},
		{"file on a host", "[source]\nurl = \"file://srv/y\"\n", `:2: source.url: "file://srv/y" names a host: expected a URL such as "https://updates.example.com/hello"`},
		{"file without path", "[source]\nurl = \"file://\"\n", `:2: source.url: "file://" names no directory: expected a URL such as "https://updates.example.com/hello"`},
		{"no channels", "[source]\nchannels = []\n", `:2: source.channels: an empty list: expected one name or more, such as ["stable"]`},
		{"channel twice", "[source]\nchannels = [\"a\", \"a\"]\n", `:2: source.channels: "a" is listed twice`},
		{"one channel", "[source]\nchannel = \"stable\"\n", `:2: source.channel: unknown key: [source] knows attributes, auto_confirm, bandwidth, ca, channels, client_cert, client_key, controller, distribution_set, gateway_token_file, metadata, password_file, target_token_file, tenant, token_file, type, url, user`},
		{"channel with space", "[source]\nchannels = [\"not so stable\"]\n", `:2: source.channels: "not so stable" holds a space or a control character: expected a name without`},
		{"certificate without key", "[source]\nurl = \"https://x\"\nclient_cert = \"c\"\n", `:3: source.client_cert: there is no client_key: expected both or neither`},
		{"key without certificate", "[source]\nurl = \"https://x\"\nclient_key = \"c\"\n", `:3: source.client_key: there is no client_cert: expected both or neither`},
		{"user without password", "[source]\nurl = \"https://x\"\nuser = \"u\"\n", `:3: source.user: there is no password_file: expected both or neither`},
		{"password without user", "[source]\nurl = \"https://x\"\npassword_file = \"u\"\n", `:3: source.password_file: there is no user: expected both or neither`},
		{"token and user", "[source]\nurl = \"https://x\"\nuser = \"u\"\npassword_file = \"p\"\ntoken_file = \"t\"\n", `:5: source.token_file: there is a user, too: expected one way to show who asks`},
		{"token and user in url", "[source]\nurl = \"https://u:p@x\"\ntoken_file = \"t\"\n", `:2: source.url: holds a user, and there are other credentials, too: expected one way to show who asks`},
		{"user with colon", "[source]\nuser = \"u:v\"\n", `:2: source.user: "u:v" holds a colon or a control character: expected a name without`},
		{"token in the clear", "[source]\nurl = \"http://x\"\ntoken_file = \"t\"\n", `:3: source.token_file: source.url is not encrypted: expected one that begins with https`},
		{"ca without TLS", "[source]\nurl = \"http://localhost\"\nca = \"t\"\n", `:3: source.ca: source.url is not encrypted: expected one that begins with https`},
		{"token for a directory", "[source]\nurl = \"file:x\"\ntoken_file = \"t\"\n", `:3: source.token_file: source.url is a directory: expected one that is reached over https`},
		{"bandwidth as number", "[source]\nbandwidth = 200\n", `:2: source.bandwidth: found the number 200: expected a speed such as "200KiB/s"`},
		{"no bandwidth", "[source]\nbandwidth = \"fast\"\n", `:2: source.bandwidth: "fast" is no speed: expected one such as "200KiB/s"`},
		{"bits", "[source]\nbandwidth = \"2Mbit/s\"\n", `:2: source.bandwidth: "2Mbit/s" is no speed: expected one such as "200KiB/s"`},
		{"too slow", "[source]\nbandwidth = \"1023B/s\"\n", `:2: source.bandwidth: "1023B/s" is too slow: expected at least "1KiB/s"; leave out bandwidth for no limit`},
		{"too fast", "[source]\nbandwidth = \"999999999999GiB/s\"\n", `:2: source.bandwidth: "999999999999GiB/s" is out of range: expected a speed such as "200KiB/s"`},
		{"empty hardware name", "[device]\ncompatible = [\"\"]\n", `:2: device.compatible: is empty: expected a name`},
		{"hardware name twice", "[device]\ncompatible = [\"a\", \"b\", \"a\"]\n", `:2: device.compatible: "a" is listed twice`},
		{"report without url", "[report]\nca = \"x\"\n", `:1: report: has no url: expected one such as "https://reports.example.com/devices"`},
		{"report in another format", "[report]\nurl = \"http://x\"\nformat = \"xml\"\n", `:3: report.format: "xml" is unknown: expected "tandem" or "otlp"`},
		{"a URL that shows who asks", "[report]\nurl = \"https://me:secret@x/y?key=1\"\n", `:2: report.url: "https://x/y" has a query or a fragment: expected a URL such as "https://updates.example.com/hello"`},
		{"report to a directory", "[report]\nurl = \"file:x\"\n", `:2: report.url: "file:x" has the scheme file: expected http or https`},
		{"report by another scheme", "[report]\nurl = \"ftp://x\"\n", `:2: report.url: "ftp://x" has the scheme ftp: expected http or https`},
		{"report's token in the clear", "[report]\nurl = \"http://x\"\ntoken_file = \"t\"\n", `:3: report.token_file: report.url is not encrypted: expected one that begins with https`},
		{"report's ca without TLS", "[report]\nurl = \"http://x\"\nca = \"c\"\n", `:3: report.ca: report.url is not encrypted: expected one that begins with https`},
		{"page under a name", "[page]\nlisten = \"localhost:80\"\n", `:2: page.listen: "localhost:80" is no address with a port: expected one such as "192.168.1.1:8080"`},
		{"page without password", "[page]\nlisten = \"127.0.0.1:80\"\n", `:1: page.password_file: is missing: expected the file that "tandem page password" writes`},
		{"page everywhere", "[page]\nlisten = \"0.0.0.0:80\"\npassword_file = \"p\"\n", `:2: page.listen: 0.0.0.0 is every address that there is: expected one, or public = true`},
		{"page for everybody", "[page]\npassword_file = \"p\"\nlisten = \"[2001:db8::1]:80\"\n", `:3: page.listen: 2001:db8::1 can be reached from everywhere: expected an address of a private network, or public = true`},
		{"page with half a certificate", "[page]\npassword_file = \"p\"\nlisten = \"10.0.0.1:80\"\nkey = \"k\"\n", `:4: page.key: there is no certificate: expected both or neither`},
		{"log target", "[agent]\nlog = \"file\"\n", `:2: agent.log: "file" is unknown: expected "stderr" or "syslog"`},
		{"no window", "[agent]\nwindow = [\"02:00-04:30\", \"at night\"]\n", `:2: agent.window: "at night" is no window: expected days and hours such as "Mon-Fri 02:00-04:30"`},
		{"empty window", "[agent]\nwindow = [\"Mon 02:00-02:00\"]\n", `:2: agent.window: "Mon 02:00-02:00" is an empty window: expected it to end later than it begins; leave out window for any time`},
		{"empty path", "[usr_data]\npath = \"\"\n", `:2: usr_data.path: is empty: expected a path`},
		{"empty program", "[hooks]\nstart = [\"\", \"x\"]\n", `:2: hooks.start: the program's name is empty: expected a command as a list of arguments`},
		{"sides the same", "[system]\npath = \"/a/b\"\n[usr_data]\npath = \"/a/./b/\"\n", `:4: usr_data.path: /a/b is also system.path: expected two different directories`},
		{"backup in system", "[system]\npath = \"/a\"\n[usr_data]\npath = \"/a/b\"\n", `:4: usr_data.path: /a/b lies inside system.path, /a: expected directories apart from each other`},
		{"system in backup", "[system]\npath = \"/a/b\"\n[usr_data]\npath = \"/a\"\n", `:2: system.path: /a/b lies inside usr_data.path, /a: expected directories apart from each other`},
		{"other mount", "[usr_data]\npath = \"/data/x\"\nmount = \"/usrdata\"\n", `:3: usr_data.mount: /usrdata does not hold usr_data.path, /data/x: expected the mount point that it lies on`},
		{"state in the application", "[agent]\nstate = \"/usrapp/apprun/apps/s\"\n", `:2: agent.state: /usrapp/apprun/apps/s lies inside /usrapp/apprun/apps: expected a place outside the application`},
		{"lock in our records", "[agent]\nlock = \"/usrdata/appbackup/.tandem/lock\"\n", `:2: agent.lock: /usrdata/appbackup/.tandem/lock lies inside /usrdata/appbackup/.tandem: expected a place outside the application`},
		{"firmware not a list", "[firmware]\nname = \"x\"\n", `:1: firmware: found a section: expected sections [[firmware]]`},
		{"firmware, first of two", "[[firmware]]\nname = \"a\"\nhandler = \"x\"\n[[firmware]]\nname = \"b\"\nhandler = [\"x\"]\n", `:3: firmware.handler: found the text "x": expected a list of texts`},
		{"firmware, unknown key", "[[firmware]]\nname = \"a\"\nhandler = [\"x\"]\n[[firmware]]\nname = \"b\"\nargs = [\"x\"]\n", `:6: firmware.args: unknown key: [[firmware]] knows handler, name`},
		{"firmware without handler", "[agent]\n[[firmware]]\nname = \"a\"\n", `:2: firmware: has no handler: expected name and handler`},
		{"firmware with empty handler", "[[firmware]]\nname = \"a\"\nhandler = []\n", `:3: firmware.handler: is empty: expected a command as a list of arguments`},
		{"firmware twice", "[[firmware]]\nname = \"a\"\nhandler = [\"x\"]\n\n[[firmware]]\nname = \"a\"\nhandler = [\"x\"]\n", `:6: firmware.name: "a" is named twice: expected one handler for each firmware`},
		{"firmware like the application", "[device]\napp = \"a\"\n[[firmware]]\nname = \"a\"\nhandler = [\"x\"]\n", `:2: device.app: "a" is also the name of a [[firmware]]: expected different names`},
		{"first mistake first", "[trust]\nroot = 1\n[agent]\nbots = 1\n", `:2: trust.root: found the number 1: expected a text in quotes`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, tt.text)
			_, err := Load(file)
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v, want ErrInvalid", err)
			}
			if got, want := err.Error(), file+tt.want; got != want {
				t.Errorf("message\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tandem.toml")
	_, err := Load(file)
	if !errors.Is(err, ErrInvalid) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrInvalid and fs.ErrNotExist", err)
	}
	if got, want := err.Error(), file+": no such configuration file"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	var missing *MissingError
	if !errors.As(err, &missing) || missing.Hint() != "name the configuration with --config FILE" {
		t.Errorf("no hint about --config in %#v", err)
	}
}

// A device that is as the defaults say needs no file.
func TestOptionalFile(t *testing.T) {
	l := loader(t, "0123abcd\n")
	l.Optional = filepath.Join(t.TempDir(), "tandem.toml")
	got, err := l.Load(l.Optional)
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Load(write(t, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want.File = l.Optional
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without a file (-defaults +got):\n%s", diff)
	}
	if _, err := l.Load(l.Optional + ".other"); !errors.Is(err, ErrInvalid) {
		t.Errorf("another file: error %v, want ErrInvalid", err)
	}
}

func TestUnreadableFile(t *testing.T) {
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("a directory: error %v, want ErrInvalid", err)
	}
	if _, err := Load(write(t, "") + "/below"); err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("below a file: error %v, want that of reading it", err)
	}
	long := write(t, strings.Repeat("#", maxFile+1))
	if _, err := Load(long); !errors.Is(err, ErrInvalid) {
		t.Errorf("a huge file: error %v, want ErrInvalid", err)
	}
}

func TestMachineID(t *testing.T) {
	file := write(t, "\n")
	for _, tt := range []struct {
		content, want string
		bad           bool
	}{
		{content: "0123abcd\n", want: "0123abcd"},
		{content: "uninitialized\n", want: ""},
		{content: "\n", want: ""},
		{content: strings.Repeat("0", 32) + "\n", want: ""},
		{content: "00000000000000000000000000000010\n", want: "00000000000000000000000000000010"},
		{content: "two words\n", bad: true},
		{content: strings.Repeat("x", 5000), bad: true},
	} {
		c, err := loader(t, tt.content).Load(file)
		if (err != nil) != tt.bad {
			t.Errorf("%.20q: error %v", tt.content, err)
			continue
		}
		if err == nil && c.Device.ID != tt.want {
			t.Errorf("%.20q: id %q, want %q", tt.content, c.Device.ID, tt.want)
		}
	}
}

func TestNeedSource(t *testing.T) {
	c, err := loader(t, "x").Load(write(t, "[source]\nurl = \"http://host/app/\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.NeedSource()
	if want := (Source{Type: Repo, URL: "http://host/app", Channels: []string{"stable"}, DDI: DDI{Tenant: "DEFAULT"}}); err != nil || !cmp.Equal(want, got) {
		t.Errorf("source %+v, %v, want %+v", got, err, want)
	}
	none := &Config{File: "/etc/tandem.toml"}
	_, err = none.NeedSource()
	if want := "/etc/tandem.toml: source: missing: expected a section [source] with type and url"; !errors.Is(err, ErrInvalid) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestParseWindow(t *testing.T) {
	every := [7]bool{true, true, true, true, true, true, true}
	for _, tt := range []struct {
		text string
		want Window
		bad  bool
	}{
		{text: "Mon-Fri 02:00-04:30", want: weekdays()},
		{text: "02:00-04:30", want: Window{every, 120, 270}},
		{text: "sat,SUN 22:00-06:00", want: Window{[7]bool{0: true, 6: true}, 1320, 360}},
		{text: "Fri-Mon 00:00-24:00", want: Window{[7]bool{0: true, 1: true, 5: true, 6: true}, 0, 1440}},
		{text: "Sun-Sat,Mon 00:00-00:01", want: Window{every, 0, 1}},
		{text: "", bad: true},
		{text: "Mon", bad: true},
		{text: "Mon- 02:00-03:00", bad: true},
		{text: "Monday 02:00-03:00", bad: true},
		{text: "Mon,,Tue 02:00-03:00", bad: true},
		{text: "Mon 2:00-3:00", bad: true},
		{text: "Mon 02:00-24:01", bad: true},
		{text: "Mon 24:00-01:00", bad: true},
		{text: "Mon 02:60-03:00", bad: true},
		{text: "Mon 02:00-03:00 UTC", bad: true},
		{text: "Mon 02:00-02:00", bad: true},
	} {
		got, err := ParseWindow(tt.text)
		if (err != nil) != tt.bad {
			t.Errorf("%q: error %v", tt.text, err)
		} else if err == nil && got != tt.want {
			t.Errorf("%q: %v, want %v", tt.text, got, tt.want)
		}
	}
}

func TestOpen(t *testing.T) {
	at := func(text string) time.Time {
		tm, err := time.Parse("2006-01-02 15:04:05", text) // 2024-01-01 is a Monday
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
	for _, tt := range []struct {
		windows []string
		now     string
		next    string // "" says that it is open
	}{
		{nil, "2024-01-01 00:00:00", ""},
		{[]string{"02:00-04:30"}, "2024-01-01 02:00:00", ""},
		{[]string{"02:00-04:30"}, "2024-01-01 04:29:59", ""},
		{[]string{"02:00-04:30"}, "2024-01-01 04:30:00", "2024-01-02 02:00:00"},
		{[]string{"02:00-04:30"}, "2024-01-01 01:59:59", "2024-01-01 02:00:00"},
		{[]string{"Mon-Fri 02:00-04:30"}, "2024-01-06 03:00:00", "2024-01-08 02:00:00"},
		{[]string{"Sat,Sun 22:00-06:00"}, "2024-01-08 05:59:00", ""},
		{[]string{"Sat,Sun 22:00-06:00"}, "2024-01-06 05:59:00", "2024-01-06 22:00:00"},
		{[]string{"Sat,Sun 22:00-06:00"}, "2024-01-08 06:00:00", "2024-01-13 22:00:00"},
		{[]string{"Mon 02:00-03:00"}, "2024-01-01 03:00:00", "2024-01-08 02:00:00"},
		{[]string{"Mon 02:00-03:00", "Wed 23:00-24:00"}, "2024-01-01 03:00:00", "2024-01-03 23:00:00"},
		{[]string{"Wed 23:00-24:00"}, "2024-01-03 23:59:59", ""},
	} {
		var windows []Window
		for _, text := range tt.windows {
			w, err := ParseWindow(text)
			if err != nil {
				t.Fatal(err)
			}
			windows = append(windows, w)
		}
		open, next := Open(windows, at(tt.now))
		if open != (tt.next == "") || !open && !next.Equal(at(tt.next)) {
			t.Errorf("%v at %s: open %v, next %v, want %q", tt.windows, tt.now, open, next, tt.next)
		}
	}
}
