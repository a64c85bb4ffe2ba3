package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	logsyslog "github.com/sirupsen/logrus/hooks/syslog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/agent"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/posixtz"
)

func newAgentCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "agent",
		Short: "Run as a daemon: poll, download, install, back up, verify",
		Long: `agent does the whole loop unattended: it asks the source for releases, downloads
and installs them inside [agent] window, asks whether they are healthy and takes
back those that are not. It backs up configuration within seconds of an edit,
verifies both sides once a day, and reports to [report] url.

It stays in the foreground and logs to standard error or syslog. SIGHUP makes it
read the configuration again, and poll now; SIGTERM ends it within five seconds,
and the next start goes on from there. While it runs, status, check, update,
install, confirm and rollback are carried out by it, over its socket.`,
		Example: `  tandem agent
  tandem agent --verbose`,
		Args: cli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context()) },
	}
}

// serve runs the daemon until ctx ends, with the configuration as it is at the
// start and at each SIGHUP.
func (p *program) serve(ctx context.Context) error {
	cfg, err := config.Load(p.config)
	if errors.Is(err, config.ErrInvalid) && os.Getenv("NOTIFY_SOCKET") != "" {
		err = &serviceError{err}
	}
	if err != nil {
		return err
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	beat := alive()
	if watchdog == 0 && beat != nil { // the script is the one who watches
		watchdog = scriptWatchdog
	}
	sockets := inheritedSocket(cfg.Agent.Socket)
	for again := false; cfg != nil && err == nil; again = true {
		cfg, err = p.serveWith(ctx, cfg, again, watchdog, beat, sockets, hup)
	}
	if errors.Is(err, agent.ErrAnew) {
		return fmt.Errorf("%w, and cannot be started: %w", err, goOn(sockets.pass()...))
	}
	return err
}

// serveWith runs the daemon with one configuration, and has it poll at once where
// another one went before. It returns the one to go on with where that was changed,
// and else nil.
func (p *program) serveWith(ctx context.Context, cfg *config.Config, again bool, watchdog time.Duration, beat func(string), sockets *socket, hup <-chan os.Signal) (*config.Config, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	env := p.environment()
	env.Log = p.agentLogger(cfg.Agent.Log)
	poll := make(chan os.Signal, 1)
	next := make(chan *config.Config, 1)
	go func() {
		defer cancel()
		if changed := p.reload(ctx, cfg, env.Log, hup, poll); changed != nil {
			next <- changed
		}
	}()
	zone, err := zone()
	if err != nil {
		env.Log.WithError(err).Warn("the time zone cannot be used: [agent] window is taken for hours of UTC")
	}
	a, err := agent.New(agent.Options{
		Config:      cfg,
		Environment: env,
		Zone:        zone,
		After: func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTimer(d)
			return t.C, func() { t.Stop() }
		},
		Random:   rand.Float64,
		Poll:     poll,
		Watchdog: watchdog,
		Listener: sockets.take(), Listening: sockets.hold,
		Notify: func(state string) {
			switch {
			case state == "STOPPING=1" && len(next) > 0:
				return // it goes on
			case state == "READY=1" && again:
				select {
				case poll <- syscall.SIGHUP:
				default: // one waits already, and the agent is not yet there to take it
				}
			}
			if beat != nil && state == "WATCHDOG=1" {
				beat(state)
			}
			if _, err := daemon.SdNotify(false, state); err != nil {
				env.Log.WithError(err).Debug("the service manager was not told")
			}
		},
	})
	if err != nil {
		return nil, err
	}
	err = a.Run(ctx)
	select {
	case changed := <-next:
		return changed, err
	default:
		return nil, err
	}
}

// reload reads the configuration at each signal, until ctx ends or there is another
// one, which it returns. A poll comes in any case. A wrong one changes nothing.
func (p *program) reload(ctx context.Context, cfg *config.Config, log *logrus.Logger, hup <-chan os.Signal, poll chan<- os.Signal) *config.Config {
	for {
		var asked os.Signal
		select {
		case <-ctx.Done():
			return nil
		case asked = <-hup:
		}
		changed, err := config.Load(p.config)
		switch {
		case err != nil:
			log.WithError(err).Error("the agent goes on with the configuration that it has")
		case !reflect.DeepEqual(changed, cfg):
			log.Info("the configuration was changed")
			return changed
		}
		select {
		case poll <- asked:
		default: // one is on its way
		}
	}
}

// scriptWatchdog is how often the script that started the agent is to see that it
// lives; it waits much longer.
const scriptWatchdog = 2 * time.Minute

// socketVariable has the local interface's open socket, which a program hands over
// to the one that goes on in its stead: its number, and its name.
const socketVariable = "TANDEM_SOCKET"

// socket is the local interface's socket across programs.
type socket struct {
	name  string
	kept  *os.File          // the same that is listened on
	given *net.UnixListener // by the program before
}

// inheritedSocket takes what the program before handed over, if that is the socket
// of that name.
func inheritedSocket(name string) *socket {
	s := &socket{name: name}
	number, was, _ := strings.Cut(os.Getenv(socketVariable), " ")
	os.Unsetenv(socketVariable) // what is started from here has nothing to do with it
	fd, err := strconv.Atoi(number)
	if err != nil {
		return s
	}
	f := os.NewFile(uintptr(fd), was)
	defer f.Close()
	if l, err := net.FileListener(f); err == nil && was == name {
		s.given, _ = l.(*net.UnixListener)
	}
	return s
}

// take returns what was handed over, once.
func (s *socket) take() *net.UnixListener {
	l := s.given
	s.given = nil
	return l
}

// hold remembers the socket that is open, by a number of its own: serving ends with
// it closed.
func (s *socket) hold(l *net.UnixListener) {
	if s.kept != nil {
		s.kept.Close()
	}
	s.kept, _ = l.File() // nil where there is no number left: then it is opened anew
}

// pass makes the socket outlive this program, and returns what tells the next one.
func (s *socket) pass() []string {
	if s.kept == nil {
		return nil
	}
	raw, err := s.kept.SyscallConn()
	if err != nil {
		return nil
	}
	var env []string
	_ = raw.Control(func(fd uintptr) { // one that cannot be passed is opened anew
		if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err == nil {
			env = []string{fmt.Sprintf("%s=%d %s", socketVariable, fd, s.name)}
		}
	})
	return env
}

// exitConfig is what a service manager is told of a wrong configuration: EX_CONFIG
// of sysexits.h. 2, which a person is told, is also how the runtime ends a program
// that crashes, and that is to be started again.
const exitConfig = 78

// serviceError is a mistake in the configuration of a service.
type serviceError struct{ err error }

func (e *serviceError) Error() string { return e.err.Error() }
func (e *serviceError) Unwrap() error { return e.err }

func isService(err error) bool {
	_, ok := errors.AsType[*serviceError](err)
	return ok
}

// agentLogger returns the logger of the daemon.
func (p *program) agentLogger(to config.LogTarget) *logrus.Logger {
	l := p.logger()
	if to == config.Syslog {
		hook, err := logsyslog.NewSyslogHook("", "", syslog.LOG_INFO|syslog.LOG_DAEMON, "tandem")
		if err == nil {
			l.SetOutput(io.Discard)
			l.SetFormatter(fields{})
			l.AddHook(hook)
			return l
		}
		l.WithError(err).Warn("syslog cannot be reached: logging to standard error")
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		l.SetFormatter(journal{})
	} else {
		l.SetFormatter(dated{})
	}
	return l
}

// fields writes a log entry as its message and fields alone.
type fields struct{}

// Format implements logrus.Formatter.
func (fields) Format(e *logrus.Entry) ([]byte, error) {
	return []byte(entryText(e) + "\n"), nil
}

// journal puts the priority in front, as sd-daemon(3) has it.
type journal struct{}

// Format implements logrus.Formatter.
func (journal) Format(e *logrus.Entry) ([]byte, error) {
	priority := syslog.LOG_DEBUG
	switch e.Level {
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		priority = syslog.LOG_ERR
	case logrus.WarnLevel:
		priority = syslog.LOG_WARNING
	case logrus.InfoLevel:
		priority = syslog.LOG_INFO
	}
	return fmt.Appendf(nil, "<%d>%s\n", priority, entryText(e)), nil
}

// dated puts time and level in front, for a log that is a file.
type dated struct{}

// Format implements logrus.Formatter.
func (dated) Format(e *logrus.Entry) ([]byte, error) {
	return fmt.Appendf(nil, "%s %s: %s\n", e.Time.UTC().Format("2006-01-02T15:04:05Z"), e.Level, entryText(e)), nil
}

// zone returns the device's time zone; UTC beside an error.
func zone() (*time.Location, error) {
	return posixtz.Device{LookupEnv: os.LookupEnv, ReadFile: os.ReadFile, Load: time.LoadLocation}.Zone()
}
