package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"

	"tandem/internal/disclose"
)

// maxName bounds device, application, channel and hardware names.
const maxName = 128

// setter takes one value as the TOML parser gives it.
type setter func(value any) error

// section is a table of the file. Keys are matched exactly: toml's own decoder
// would also take "Path" for "path".
type section map[string]setter

// reader turns one file into a Config.
type reader struct {
	file  string
	text  string
	md    toml.MetaData
	roots map[string]toml.Primitive // the file, undecoded, to ask for positions
	c     Config
}

func parse(file string, text []byte) (*Config, error) {
	r := &reader{file: file, text: string(text)}
	var values map[string]any
	md, err := toml.Decode(r.text, &values)
	var syntax toml.ParseError
	switch {
	case errors.As(err, &syntax):
		return nil, &Error{File: file, Line: syntax.Position.Line, Key: syntax.LastKey, Message: "not TOML: " + syntax.Message}
	case err != nil:
		return nil, &Error{File: file, Message: "not TOML: " + err.Error()}
	}
	if r.md, err = toml.Decode(r.text, &r.roots); err != nil {
		return nil, &Error{File: file, Message: "not TOML: " + err.Error()}
	}
	if err := r.read(md, values); err != nil {
		return nil, err
	}
	if err := r.check(values); err != nil {
		return nil, err
	}
	return &r.c, nil
}

func defaults(file string) Config {
	return Config{
		File:    file,
		System:  Side{Path: "/usrapp/apprun"},
		UsrData: Side{Path: "/usrdata/appbackup"},
		Trust:   Trust{Root: "/etc/tandem/root.json"},
		Agent: Agent{
			State: "/usrdata/tandem", Lock: "/run/tandem.lock", Backup: Immediate, Boots: 3, Log: Stderr,
			Poll: time.Hour, Trial: 10 * time.Minute, Scrub: 24 * time.Hour, ScrubBandwidth: 4 << 20,
		},
		Hooks: Hooks{HealthTimeout: time.Minute},
	}
}

// read fills in what the file says, key by key in the order of the file, so
// that the first mistake is the first that is reported.
func (r *reader) read(md toml.MetaData, values map[string]any) error {
	r.c = defaults(r.file)
	source := Source{DDI: DDI{Tenant: defaultTenant}}
	report := Report{Format: OwnReports, Metrics: 5 * time.Minute, Compression: Uncompressed}
	var page Page
	sections := r.sections(&source, &report, &page)
	firmwareRead := false
	for _, key := range md.Keys() {
		if key[0] == "firmware" {
			if firmwareRead {
				continue
			}
			firmwareRead = true
			if err := r.readFirmware(values["firmware"]); err != nil {
				return err
			}
			continue
		}
		sec, ok := sections[key[0]]
		if !ok {
			return r.unknown(key[:1], "the file", append(names(sections), "firmware"))
		}
		table, ok := values[key[0]].(map[string]any)
		if !ok {
			return r.errorAt(key[:1], fmt.Sprintf("found %s: expected a section [%s]", typeName(values[key[0]]), key[0]))
		}
		if len(key) == 1 {
			continue
		}
		set, ok := sec[key[1]]
		if !ok {
			return r.unknown(key[:2], "["+key[0]+"]", names(sec))
		}
		if err := set(table[key[1]]); err != nil {
			return r.errorAt(key[:2], err.Error())
		}
	}
	if _, ok := values["source"]; ok {
		if source.Type == "" {
			source.Type = Repo
		}
		if source.Channels == nil {
			source.Channels = []string{"stable"}
		}
		r.c.Source = &source
	}
	if _, ok := values["report"]; ok {
		r.c.Report = &report
	}
	if page.Listen.IsValid() {
		r.c.Page = &page
	}
	for _, own := range []struct {
		path   *string
		suffix string
	}{{&r.c.Agent.Socket, ".sock"}, {&r.c.Agent.PID, ".pid"}} {
		if *own.path == "" {
			*own.path = strings.TrimSuffix(r.c.Agent.Lock, ".lock") + own.suffix
		}
	}
	return nil
}

func (r *reader) sections(source *Source, report *Report, page *Page) map[string]section {
	c := &r.c
	side := func(s *Side) section {
		return section{"path": r.path(&s.Path), "mount": r.optionalPath(&s.Mount), "remount": boolean(&s.Remount)}
	}
	all := map[string]section{
		"device": {
			"id":         optionalName(&c.Device.ID),
			"compatible": nameList(&c.Device.Compatible),
			"app":        name(&c.Device.App),
		},
		"system":   side(&c.System),
		"usr_data": side(&c.UsrData),
		"trust":    {"root": r.path(&c.Trust.Root), "allow_unsigned": boolean(&c.Trust.AllowUnsigned)},
		"source": {
			"type":     oneOf(&source.Type, Repo, HawkBit),
			"url":      r.url(&source.URL, "http, https or file"),
			"channels": someNames(&source.Channels),

			"ca":            r.optionalPath(&source.CA),
			"client_cert":   r.optionalPath(&source.ClientCert),
			"client_key":    r.optionalPath(&source.ClientKey),
			"token_file":    r.optionalPath(&source.TokenFile),
			"user":          user(&source.User),
			"password_file": r.optionalPath(&source.PasswordFile),
			"bandwidth":     bandwidth(&source.Bandwidth),
		},
		"agent": {
			"state":  r.path(&c.Agent.State),
			"lock":   r.path(&c.Agent.Lock),
			"backup": oneOf(&c.Agent.Backup, Immediate, Confirmed),
			"boots":  integer(&c.Agent.Boots, 1, 1000),

			"socket":   r.path(&c.Agent.Socket),
			"pid_file": r.path(&c.Agent.PID),
			"log":      oneOf(&c.Agent.Log, Stderr, Syslog),

			"poll":         duration(&c.Agent.Poll),
			"max_download": amount(&c.Agent.MaxDownload),
			"metered":      boolean(&c.Agent.Metered),
			"window":       windows(&c.Agent.Window),
			"urgent":       boolean(&c.Agent.Urgent),

			"trial":           duration(&c.Agent.Trial),
			"scrub":           duration(&c.Agent.Scrub),
			"scrub_bandwidth": bandwidth(&c.Agent.ScrubBandwidth),
		},
		"report": {
			"url":         r.url(&report.URL, "http or https"),
			"format":      oneOf(&report.Format, OwnReports, OTLP),
			"metrics":     duration(&report.Metrics),
			"compression": oneOf(&report.Compression, Uncompressed, Gzip),
			"ca":          r.optionalPath(&report.CA),
			"token_file":  r.optionalPath(&report.TokenFile),
		},
		"page": r.pageKeys(page),
		"hooks": {
			"pre_install":    r.command(&c.Hooks.PreInstall, true),
			"stop":           r.command(&c.Hooks.Stop, true),
			"start":          r.command(&c.Hooks.Start, true),
			"health":         r.command(&c.Hooks.Health, true),
			"health_timeout": duration(&c.Hooks.HealthTimeout),
			"capture":        r.command(&c.Hooks.Capture, true),
		},
	}
	maps.Copy(all["source"], r.hawkBitKeys(&source.DDI))
	return all
}

func (r *reader) readFirmware(value any) error {
	tables, ok := value.([]map[string]any)
	if !ok {
		return r.errorAt(toml.Key{"firmware"}, fmt.Sprintf("found %s: expected sections [[firmware]]", typeName(value)))
	}
	for i, table := range tables {
		var f Firmware
		sec := section{"name": name(&f.Name), "handler": r.command(&f.Handler, false)}
		keys := names(table)
		sort.Slice(keys, func(a, b int) bool { return r.firmwareLine(i, keys[a]) < r.firmwareLine(i, keys[b]) })
		fail := func(key, message string) error {
			return &Error{File: r.file, Line: r.firmwareLine(i, key), Key: strings.TrimSuffix("firmware."+key, "."), Message: message}
		}
		for _, key := range keys {
			set, ok := sec[key]
			if !ok {
				return fail(key, "unknown key: [[firmware]] knows "+strings.Join(names(sec), ", "))
			}
			if err := set(table[key]); err != nil {
				return fail(key, err.Error())
			}
		}
		for _, key := range []string{"name", "handler"} {
			if _, ok := table[key]; !ok {
				return fail("", "has no "+key+": expected name and handler")
			}
		}
		if f.Name == "tandem" {
			return fail("name", `"tandem" is Tandem itself: expected another name`)
		}
		for _, other := range r.c.Firmware {
			if other.Name == f.Name {
				return fail("name", fmt.Sprintf("%q is named twice: expected one handler for each firmware", f.Name))
			}
		}
		r.c.Firmware = append(r.c.Firmware, f)
	}
	return nil
}

// check finds what does not fit together.
func (r *reader) check(values map[string]any) error {
	c := &r.c
	// The default of mount belongs to the default of path: another path need
	// not lie on the same partition.
	usrData, _ := values["usr_data"].(map[string]any)
	if _, ok := usrData["mount"]; !ok && c.UsrData.Path == "/usrdata/appbackup" {
		c.UsrData.Mount = "/usrdata"
	}
	if c.Source != nil && c.Source.URL == "" {
		return r.errorAt(toml.Key{"source"}, `has no url: expected one such as "https://updates.example.com/hello"`)
	}
	if err := r.checkSource(); err != nil {
		return err
	}
	if err := r.checkReport(); err != nil {
		return err
	}
	if err := r.checkPage(); err != nil {
		return err
	}
	for _, f := range c.Firmware {
		if f.Name == c.Device.App {
			return r.errorAt(toml.Key{"device", "app"}, fmt.Sprintf("%q is also the name of a [[firmware]]: expected different names", f.Name))
		}
	}
	switch sys, usr := c.System.Path, c.UsrData.Path; {
	case sys == usr:
		return r.errorAt(toml.Key{"usr_data", "path"}, fmt.Sprintf("%s is also system.path: expected two different directories", usr))
	case inside(usr, sys):
		return r.errorAt(toml.Key{"usr_data", "path"}, fmt.Sprintf("%s lies inside system.path, %s: expected directories apart from each other", usr, sys))
	case inside(sys, usr):
		return r.errorAt(toml.Key{"system", "path"}, fmt.Sprintf("%s lies inside usr_data.path, %s: expected directories apart from each other", sys, usr))
	}
	for _, side := range []struct {
		name string
		Side
	}{{"system", c.System}, {"usr_data", c.UsrData}} {
		if side.Mount != "" && side.Path != side.Mount && !inside(side.Path, side.Mount) {
			return r.errorAt(toml.Key{side.name, "mount"}, fmt.Sprintf("%s does not hold %s.path, %s: expected the mount point that it lies on", side.Mount, side.name, side.Path))
		}
		// What lies there is swapped, compared and removed with a version.
		for _, ours := range []string{"apps", ".tandem"} {
			dir := filepath.Join(side.Path, ours)
			for _, own := range []struct{ key, path string }{
				{"state", c.Agent.State}, {"lock", c.Agent.Lock}, {"socket", c.Agent.Socket}, {"pid_file", c.Agent.PID},
			} {
				if own.path == dir || inside(own.path, dir) {
					return r.errorAt(toml.Key{"agent", own.key}, fmt.Sprintf("%s lies inside %s: expected a place outside the application", own.path, dir))
				}
			}
		}
	}
	return nil
}

// checkSource finds what does not fit together in [source].
func (r *reader) checkSource() error {
	s := r.c.Source
	if s == nil {
		return nil
	}
	at := func(key, message string) error { return r.errorAt(toml.Key{"source", key}, message) }
	u, err := url.Parse(s.URL)
	if err != nil {
		return at("url", "is no URL")
	}
	switch {
	case (s.ClientCert == "") != (s.ClientKey == ""):
		key, other := "client_cert", "client_key"
		if s.ClientCert == "" {
			key, other = other, key
		}
		return at(key, "there is no "+other+": expected both or neither")
	case s.User == "" && s.PasswordFile != "":
		return at("password_file", "there is no user: expected both or neither")
	case s.User != "" && s.PasswordFile == "":
		return at("user", "there is no password_file: expected both or neither")
	case s.TokenFile != "" && s.User != "":
		return at("token_file", "there is a user, too: expected one way to show who asks")
	case u.User != nil && (s.TokenFile != "" || s.User != ""):
		return at("url", "holds a user, and there are other credentials, too: expected one way to show who asks")
	}
	for _, c := range []struct{ key, value string }{
		{"ca", s.CA}, {"client_cert", s.ClientCert}, {"token_file", s.TokenFile}, {"user", s.User},
		{"target_token_file", s.DDI.TargetTokenFile}, {"gateway_token_file", s.DDI.GatewayTokenFile},
	} {
		switch {
		case c.value == "":
		case u.Scheme == "file":
			return at(c.key, "source.url is a directory: expected one that is reached over https")
		case u.Scheme == "http" && (c.key == "ca" || c.key == "client_cert" || !loopback(u.Hostname())):
			// What is sent in the clear is no secret for long.
			return at(c.key, "source.url is not encrypted: expected one that begins with https")
		}
	}
	return r.checkHawkBit()
}

// checkReport finds what does not fit together in [report].
func (r *reader) checkReport() error {
	s := r.c.Report
	if s == nil {
		return nil
	}
	at := func(key, message string) error { return r.errorAt(toml.Key{"report", key}, message) }
	u, err := url.Parse(s.URL)
	switch {
	case s.URL == "":
		return r.errorAt(toml.Key{"report"}, `has no url: expected one such as "https://reports.example.com/devices"`)
	case err != nil:
		return at("url", "is no URL")
	case u.User != nil && s.TokenFile != "":
		return at("url", "holds a user, and there is a token_file, too: expected one way to show who reports")
	case u.Scheme == "http" && s.CA != "":
		return at("ca", "report.url is not encrypted: expected one that begins with https")
	case u.Scheme == "http" && s.TokenFile != "" && !loopback(u.Hostname()):
		return at("token_file", "report.url is not encrypted: expected one that begins with https")
	}
	return nil
}

// loopback reports whether a host is this machine itself, such as a forwarder.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// inside reports whether p lies below dir; both are clean and absolute.
func inside(p, dir string) bool {
	return p != dir && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// The setters. Each error says what was found and what was expected.

func text(value any) (string, error) {
	s, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("found %s: expected a text in quotes", typeName(value))
	}
	return s, nil
}

func texts(value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("found %s: expected a list of texts", typeName(value))
	}
	out := make([]string, 0, len(list))
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("found %s in the list: expected a list of texts", typeName(v))
		}
		out = append(out, s)
	}
	return out, nil
}

func boolean(dst *bool) setter {
	return func(value any) error {
		b, ok := value.(bool)
		if !ok {
			return fmt.Errorf("found %s: expected true or false", typeName(value))
		}
		*dst = b
		return nil
	}
}

func integer(dst *int, low, high int64) setter {
	return func(value any) error {
		n, ok := value.(int64)
		if !ok {
			return fmt.Errorf("found %s: expected a whole number", typeName(value))
		}
		if n < low || n > high {
			return fmt.Errorf("%d is out of range: expected %d to %d", n, low, high)
		}
		*dst = int(n)
		return nil
	}
}

func duration(dst *time.Duration) setter {
	return func(value any) error {
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf(`found %s: expected a duration such as "90s" or "1h"`, typeName(value))
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf(`%q is no duration: expected one such as "90s" or "1h"`, s)
		}
		if d < time.Second {
			return fmt.Errorf(`%q is too short: expected at least "1s"`, s)
		}
		*dst = d
		return nil
	}
}

func oneOf[T ~string](dst *T, choices ...T) setter {
	return func(value any) error {
		s, err := text(value)
		if err != nil {
			return err
		}
		if !slices.Contains(choices, T(s)) {
			all := make([]string, len(choices))
			for i, c := range choices {
				all[i] = fmt.Sprintf("%q", c)
			}
			return fmt.Errorf("%q is unknown: expected %s", s, strings.Join(all, " or "))
		}
		*dst = T(s)
		return nil
	}
}

// checkName reports whether s can name a thing in messages, URLs and lists.
func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("is empty: expected a name")
	case len(s) > maxName:
		return fmt.Errorf("%.20q… has %d bytes: expected a name of at most %d", s, len(s), maxName)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return fmt.Errorf("%q holds a space or a control character: expected a name without", s)
	}
	return nil
}

func name(dst *string) setter {
	return func(value any) error {
		s, err := text(value)
		if err != nil {
			return err
		}
		if err := checkName(s); err != nil {
			return err
		}
		*dst = s
		return nil
	}
}

// optionalName is name, with "" standing for the default.
func optionalName(dst *string) setter {
	return func(value any) error {
		if value == "" {
			return nil
		}
		return name(dst)(value)
	}
}

// user reads the name for basic authentication, with "" standing for none.
func user(dst *string) setter {
	return func(value any) error {
		s, err := text(value)
		switch {
		case err != nil:
			return err
		case len(s) > maxName:
			return fmt.Errorf("%.20q… has %d bytes: expected at most %d", s, len(s), maxName)
		case strings.ContainsFunc(s, func(r rune) bool { return r == ':' || unicode.IsControl(r) }):
			return fmt.Errorf("%q holds a colon or a control character: expected a name without", s)
		}
		*dst = s
		return nil
	}
}

var amountForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([0-9]{1,12}) ?(B|KiB|MiB|GiB|kB|MB|GB)$`)
})

// amount reads a number of bytes; "" is none.
func amount(dst *int64) setter {
	return func(value any) error {
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf(`found %s: expected an amount such as "20MiB"`, typeName(value))
		}
		if s == "" {
			*dst = 0
			return nil
		}
		m := amountForm().FindStringSubmatch(s)
		if m == nil {
			return fmt.Errorf(`%q is no amount: expected one such as "20MiB"`, s)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if unit := units()[m[2]]; err != nil || n > math.MaxInt64/unit || n == 0 {
			return fmt.Errorf(`%q is out of range: expected an amount such as "20MiB"`, s)
		}
		*dst = n * units()[m[2]]
		return nil
	}
}

// units are those of bytes.
func units() map[string]int64 {
	return map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1e3, "MB": 1e6, "GB": 1e9}
}

// minBandwidth is as slow as a download may be made: below it a limit cannot
// be told from a server that has gone to sleep.
const minBandwidth = 1 << 10

var bandwidthForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{1,12}) ?(B|KiB|MiB|GiB|kB|MB|GB)/s$`) })

// bandwidth reads a speed, with "" standing for no limit.
func bandwidth(dst *int64) setter {
	units := units()
	return func(value any) error {
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf(`found %s: expected a speed such as "200KiB/s"`, typeName(value))
		}
		if s == "" {
			*dst = 0
			return nil
		}
		m := bandwidthForm().FindStringSubmatch(s)
		if m == nil {
			return fmt.Errorf(`%q is no speed: expected one such as "200KiB/s"`, s)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || n > math.MaxInt64/units[m[2]] {
			return fmt.Errorf(`%q is out of range: expected a speed such as "200KiB/s"`, s)
		}
		if n *= units[m[2]]; n < minBandwidth {
			return fmt.Errorf(`%q is too slow: expected at least "1KiB/s"; leave out bandwidth for no limit`, s)
		}
		*dst = n
		return nil
	}
}

func nameList(dst *[]string) setter {
	return func(value any) error {
		list, err := texts(value)
		if err != nil {
			return err
		}
		for i, s := range list {
			if err := checkName(s); err != nil {
				return err
			}
			if slices.Contains(list[:i], s) {
				return fmt.Errorf("%q is listed twice", s)
			}
		}
		*dst = list
		return nil
	}
}

// someNames is nameList for a list that has one name at least.
func someNames(dst *[]string) setter {
	read := nameList(dst)
	return func(value any) error {
		if err := read(value); err != nil {
			return err
		}
		if len(*dst) == 0 {
			return errors.New(`an empty list: expected one name or more, such as ["stable"]`)
		}
		return nil
	}
}

func windows(dst *[]Window) setter {
	return func(value any) error {
		list, err := texts(value)
		if err != nil {
			return err
		}
		*dst = nil
		for _, s := range list {
			w, err := ParseWindow(s)
			if err != nil {
				return err
			}
			*dst = append(*dst, w)
		}
		return nil
	}
}

// absolute resolves a path of the file.
func (r *reader) absolute(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(filepath.Dir(r.file), p)
}

func (r *reader) path(dst *string) setter {
	return func(value any) error {
		s, err := text(value)
		switch {
		case err != nil:
			return err
		case s == "":
			return errors.New("is empty: expected a path")
		case strings.IndexByte(s, 0) >= 0:
			return errors.New("holds a zero byte: expected a path")
		}
		*dst = r.absolute(s)
		return nil
	}
}

// optionalPath is path, with "" standing for none.
func (r *reader) optionalPath(dst *string) setter {
	return func(value any) error {
		if value == "" {
			*dst = ""
			return nil
		}
		return r.path(dst)(value)
	}
}

// command reads an argument list.
func (r *reader) command(dst *[]string, optional bool) setter {
	return func(value any) error {
		list, err := texts(value)
		if err != nil {
			return err
		}
		if len(list) == 0 && !optional {
			return errors.New("is empty: expected a command as a list of arguments")
		}
		for _, arg := range list {
			if strings.IndexByte(arg, 0) >= 0 {
				return errors.New("an argument holds a zero byte")
			}
		}
		if len(list) > 0 {
			if list[0] == "" {
				return errors.New("the program's name is empty: expected a command as a list of arguments")
			}
			if strings.Contains(list[0], "/") {
				list[0] = r.absolute(list[0])
			}
		}
		*dst = list
		return nil
	}
}

// url reads an address that has one of schemes. "file:DIR" with a relative DIR is
// relative to the directory of the configuration, as paths are.
func (r *reader) url(dst *string, schemes string) setter {
	return func(value any) error {
		s, err := text(value)
		if err != nil {
			return err
		}
		bad := func(why string) error {
			return fmt.Errorf(`%q %s: expected a URL such as "https://updates.example.com/hello"`, disclose.Text(s), why)
		}
		u, err := url.Parse(s)
		if err != nil {
			return bad("is no URL")
		}
		if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			return bad("has a query or a fragment")
		}
		switch {
		case u.Scheme == "http", u.Scheme == "https":
			if u.Hostname() == "" {
				return bad("names no host")
			}
		case u.Scheme == "file" && strings.Contains(schemes, "file"):
			if u.Host != "" && u.Host != "localhost" {
				return bad("names a host")
			}
			p := u.Path
			if u.Opaque != "" {
				if p, err = url.PathUnescape(u.Opaque); err != nil {
					return bad("is no URL")
				}
			}
			if p == "" || strings.IndexByte(p, 0) >= 0 {
				return bad("names no directory")
			}
			u = &url.URL{Scheme: "file", Path: r.absolute(p)}
		case u.Scheme == "":
			return bad("has no scheme")
		default:
			return fmt.Errorf("%q has the scheme %s: expected %s", disclose.Text(s), u.Scheme, schemes)
		}
		*dst = strings.TrimRight(u.String(), "/")
		return nil
	}
}

// Positions.

func (r *reader) errorAt(key toml.Key, message string) error {
	return &Error{File: r.file, Line: r.line(key), Key: strings.Join(key, "."), Message: message}
}

func (r *reader) unknown(key toml.Key, where string, known []string) error {
	slices.Sort(known)
	return r.errorAt(key, "unknown key: "+where+" knows "+strings.Join(known, ", "))
}

// refuse is a value that takes nothing: the decoder then says where it stands.
type refuse struct{}

func (refuse) UnmarshalTOML(any) error { return errors.New("asked for the position") }

// line finds the line of a key, or that of its section where the file has no
// such key, or 0. The decoder tells positions only in its errors.
func (r *reader) line(key toml.Key) int {
	tables := r.roots
	for i, k := range key {
		prim, ok := tables[k]
		if !ok {
			return r.line(key[:i])
		}
		if i == len(key)-1 {
			var at toml.ParseError
			if errors.As(r.md.PrimitiveDecode(prim, &refuse{}), &at) && at.Position.Line > 0 {
				return at.Position.Line
			}
			return r.line(key[:i])
		}
		tables = nil
		if err := r.md.PrimitiveDecode(prim, &tables); err != nil {
			return r.line(key[:i+1])
		}
	}
	return 0
}

var firmwareHeader = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^[ \t]*\[\[[ \t]*firmware[ \t]*\]\]`) })

// firmwareLine finds the line of a key in section i of [[firmware]], or of
// that section when key is "". The decoder knows the positions of the last
// section only, so each is read by itself.
func (r *reader) firmwareLine(i int, key string) int {
	at := firmwareHeader().FindAllStringIndex(r.text, -1)
	if i >= len(at) {
		return r.line(toml.Key{"firmware"})
	}
	start, end := at[i][0], len(r.text)
	if i+1 < len(at) {
		end = at[i+1][0]
	}
	header := 1 + strings.Count(r.text[:start], "\n")
	one := reader{text: r.text[start:end]}
	var file struct{ Firmware []map[string]toml.Primitive }
	md, err := toml.Decode(one.text, &file)
	if err != nil || key == "" || len(file.Firmware) != 1 {
		return header
	}
	one.md, one.roots = md, file.Firmware[0]
	if n := one.line(toml.Key{key}); n > 0 {
		return header + n - 1
	}
	return header
}

func names[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// typeName says what a value is, for a person.
func typeName(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the text %.40q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	case time.Time:
		return "a date"
	case map[string]any:
		return "a section"
	case []map[string]any:
		return "a list of sections"
	case []any:
		return "a list"
	}
	return "something else"
}
