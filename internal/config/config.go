// Package config reads Tandem's configuration file.
//
// The file is TOML. A relative path in it is relative to the directory of the
// file itself, wherever the program was started; in what Load gives, all paths
// are absolute. The same holds for the program of a hook or handler when its
// name has a slash in it; one without a slash is looked up in PATH when it runs.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The limits on what is read, in bytes.
const (
	maxFile      = 1 << 20
	maxMachineID = 4096
)

// Config is what the configuration file says, with the defaults filled in and
// all paths absolute.
type Config struct {
	File     string // the file itself
	Device   Device
	System   Side
	UsrData  Side
	Trust    Trust
	Source   *Source // nil: the device is updated by hand only; see NeedSource
	Report   *Report // nil: nobody is reported to
	Page     *Page   // nil: there is no page
	Agent    Agent
	Hooks    Hooks
	Firmware []Firmware
}

// Device says what the device is.
type Device struct {
	// ID tells this device from others. It is "" where neither the file nor
	// the machine names one; such a device is outside every partial rollout.
	ID         string
	Compatible []string // hardware names a bundle may ask for
	App        string   // the application this device runs
}

// Side says where a side is.
type Side struct {
	Path    string
	Mount   string // must be a mount point; "": not checked
	Remount bool   // remount read-write for a change, and back
}

// Trust says whom the device trusts.
type Trust struct {
	Root          string // the root.json the device was provisioned with
	AllowUnsigned bool   // development only
}

// SourceType is a kind of source.
type SourceType string

// The kinds of source.
const (
	Repo    SourceType = "repo"
	HawkBit SourceType = "hawkbit"
)

// Source says where releases come from, and how the server is reached. Of what
// shows the server who asks, one way at most is given: a token, or a user with a
// password, or both in the URL; a client certificate may be shown as well.
// Secrets stand in files of their own, which Access reads.
type Source struct {
	Type     SourceType
	URL      string   // http, https or file, without a slash at its end
	Channels []string // whose releases are taken; one at least

	CA           string // ca: PEM file of the authorities that may vouch for the server; "": the system's
	ClientCert   string // client_cert: PEM file of the certificate shown to the server, and those above it; "": none
	ClientKey    string // client_key: PEM file of its private key
	TokenFile    string // token_file: holds the bearer token; "": none
	User         string // user: for basic authentication; "": none
	PasswordFile string // password_file: holds the user's password

	Bandwidth int64 // bandwidth: bytes a second that a download may take; 0: all there are

	DDI DDI // of a hawkBit server
}

// BackupPolicy says when an update is backed up.
type BackupPolicy string

// The backup policies.
const (
	Immediate BackupPolicy = "immediate" // at once
	Confirmed BackupPolicy = "confirmed" // once the new version is confirmed healthy
)

// LogTarget says where the daemon's log goes.
type LogTarget string

// The places for a log.
const (
	Stderr LogTarget = "stderr"
	Syslog LogTarget = "syslog"
)

// Agent is the section of the daemon, and of what all commands share.
type Agent struct {
	State  string // directory of downloads, trusted metadata, history
	Lock   string // file that keeps two tandems apart
	Backup BackupPolicy
	Boots  int // starts after which a version still pending is rolled back

	Socket string    // of the daemon's local interface; beside the lock unless it says otherwise
	PID    string    // pid_file: the daemon's process id; beside the lock unless it says otherwise
	Log    LogTarget // the daemon's

	Poll        time.Duration // between two polls of the source
	MaxDownload int64         // max_download: bytes that may come for one release; 0: as many as it takes
	Metered     bool          // the link costs: look for releases, download none
	Window      []Window      // when updates may be installed; none: any time
	Urgent      bool          // releases that their publisher calls urgent need no window

	Trial          time.Duration // that a new Tandem is idle, if it does not poll before, until it is confirmed
	Scrub          time.Duration // between two full verifications of both sides
	ScrubBandwidth int64         // scrub_bandwidth: bytes a second that one may read; 0: all there are
}

// ReportFormat is the form in which the daemon reports.
type ReportFormat string

// The formats of reports.
const (
	OwnReports ReportFormat = "tandem" // events, as Tandem's own JSON
	OTLP       ReportFormat = "otlp"   // events as logs, and metrics, for an OpenTelemetry collector
)

// Compression is how what is reported is compressed on its way.
type Compression string

// The compressions.
const (
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
)

// Report says where the daemon reports to.
type Report struct {
	URL         string // http or https, without a slash at its end
	Format      ReportFormat
	Metrics     time.Duration // between two reports of the metrics; of OTLP alone
	Compression Compression

	CA        string // ca: PEM file of the authorities that may vouch for the server; "": the system's
	TokenFile string // token_file: holds the bearer token; "": none
}

// Hooks are commands, each as an argument list; an empty one is not run.
type Hooks struct {
	PreInstall    []string
	Stop          []string
	Start         []string
	Health        []string
	HealthTimeout time.Duration
	Capture       []string // called with "begin" and "end"
}

// Firmware names the handler of a firmware.
type Firmware struct {
	Name    string // the bundle's app field
	Handler []string
}

// ErrInvalid says that the configuration cannot be used. All errors of this
// package wrap it, except those of reading a file that is there.
var ErrInvalid = errors.New("invalid configuration")

// Error says what is wrong with one key.
type Error struct {
	File    string
	Line    int    // 0 if the file has no line to blame
	Key     string // such as "agent.poll"; "" if no key can be named
	Message string // what was found, and what was expected
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Message
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// MissingError says that there is no configuration file. It wraps ErrInvalid
// and fs.ErrNotExist.
type MissingError struct{ File string }

func (e *MissingError) Error() string { return e.File + ": no such configuration file" }

// Unwrap returns ErrInvalid and fs.ErrNotExist.
func (e *MissingError) Unwrap() []error { return []error{ErrInvalid, fs.ErrNotExist} }

// Hint says what to do about it.
func (e *MissingError) Hint() string { return "name the configuration with --config FILE" }

// NoSourceError says that something needs a source and the file names none. It
// wraps ErrInvalid.
type NoSourceError struct{ File string }

func (e *NoSourceError) Error() string {
	return e.File + ": source: missing: expected a section [source] with type and url"
}

// Unwrap returns ErrInvalid.
func (e *NoSourceError) Unwrap() error { return ErrInvalid }

// Hint says what to do about it.
func (e *NoSourceError) Hint() string {
	return "without a source this device is updated by hand: tandem install FILE"
}

// NeedSource returns the source, or a *NoSourceError where the file names none.
func (c *Config) NeedSource() (Source, error) {
	if c.Source == nil {
		return Source{}, &NoSourceError{c.File}
	}
	return *c.Source, nil
}

// DefaultFile is the configuration of a device. It may be missing: then every
// key has its default.
const DefaultFile = "/etc/tandem.toml"

// Load reads the configuration file. Of several mistakes it reports the first:
// unknown keys and values that cannot be, in the order of the file, then what
// does not fit together.
func Load(file string) (*Config, error) {
	return Loader{MachineID: "/etc/machine-id", Optional: DefaultFile}.Load(file)
}

// Loader loads configurations.
type Loader struct {
	// MachineID is the file whose content is the device's name when the
	// configuration gives none.
	MachineID string
	// Optional is the configuration that may be missing; "" for none.
	Optional string
}

// Load is the function Load.
func (l Loader) Load(file string) (*Config, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	text, err := readFile(file, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if file != l.Optional {
			return nil, &MissingError{file}
		}
	case errors.Is(err, syscall.EISDIR):
		return nil, &Error{File: file, Message: "a directory: expected a configuration"}
	case err != nil:
		return nil, fmt.Errorf("read configuration: %w", err)
	case len(text) == 0:
		return nil, &Error{File: file, Message: "empty, as a power cut leaves a file that was being written: write it again, or remove it to have the default of each key"}
	case len(text) > maxFile:
		return nil, &Error{File: file, Message: fmt.Sprintf("longer than %d bytes: expected a configuration", maxFile)}
	}
	c, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	if c.Device.ID == "" {
		if c.Device.ID, err = machineID(l.MachineID); err != nil {
			return nil, fmt.Errorf("device.id: %w", err)
		}
	}
	return c, nil
}

// machineID reads the name that the system gave the machine. systemd writes
// "uninitialized" there until it has made one up; nothing but zeros is what images
// have whose machines are all the same.
func machineID(file string) (string, error) {
	text, err := readFile(file, maxMachineID)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id := string(bytes.TrimSpace(text))
	if id == "uninitialized" || strings.Trim(id, "0") == "" {
		return "", nil
	}
	if err := checkName(id); err != nil {
		return "", &Error{File: file, Message: err.Error()}
	}
	return id, nil
}

// readFile reads one byte more than limit at most, so that a caller can tell. It does
// not wait for the other end of a FIFO.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
