//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tandem/test/internal/guest"
)

// The module's Tandem lies on system, as all of a device does: what the factory puts
// there is older than what is published here.
const (
	itself  = guest.SystemDir + "/tandem"
	program = itself + "/tandem"
	second  = guest.Backup + "/.tandem/self/kept.json"
)

// ownVersion is what "tandem status --json" tells of Tandem.
type ownVersion struct {
	Version, Previous, Kept, Pending string
	Revoked                          []string
}

// moments are those of an update of Tandem that can be seen from outside, in their
// order: it is interrupted a little after one of them.
var moments = []string{
	guest.UsrDataDir + "/tandem/downloads", guest.UsrDataDir + "/tandem/firmware/tandem",
	program + ".next", program + ".previous", program + ".trial", program + ".starts-agent",
}

// updateItself publishes a Tandem, interrupts the update again and again, by a signal
// that nobody can catch or by a reset, and then wants it confirmed and kept.
func (l *lab) updateItself(version string, cuts int, seed uint64) error {
	fmt.Printf("   seed %d\n", seed)
	if _, err := l.publish("tandem-" + version); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for n := range cuts {
		at := moments[random.IntN(len(moments))]
		after := time.Duration(random.IntN(1500)) * time.Millisecond
		err := l.m.until(at+" appears, or it is over", func() error {
			if own, err := l.m.own(); err == nil && own.Kept == version {
				return nil
			}
			names, _ := filepath.Glob(root + at + "*")
			if len(names) == 0 {
				return fmt.Errorf("it does not")
			}
			return nil
		})
		if err != nil {
			return err
		}
		time.Sleep(after)
		what := "reset"
		if kill := random.IntN(3) == 0; kill {
			what = "kill"
			err = l.killAgent()
		} else {
			err = l.m.reset(fmt.Sprintf("cut %d of Tandem itself", n+1))
		}
		if err != nil {
			return err
		}
		if _, err := l.m.anyVersion("1.3.0"); err != nil {
			return err
		}
		own, err := l.m.own()
		if err != nil {
			return err
		}
		fmt.Printf("   %s %v after %s: it runs %s, on trial is %q, usr_data keeps %q\n", what, after, filepath.Base(at), own.Version, own.Pending, own.Kept)
	}
	free := space()
	err := l.m.until("Tandem "+version+" is in place", func() error { return l.owned(version, false) })
	if err != nil {
		return err
	}
	// One start of the device is what it is to show.
	if err := l.m.reset("Tandem " + version + " starts the device"); err != nil {
		return err
	}
	if err := l.keeps(version); err != nil {
		return err
	}
	if info, err := os.Stat(root + program + ".previous"); err == nil {
		fmt.Printf("   the way back, of %d bytes, lies beside it; %d KiB of system were free before, %d KiB are\n", info.Size(), free>>10, space()>>10)
	} else {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

// space is how many bytes are free on system.
func space() int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(root+guest.SystemDir, &s); err != nil {
		return 0
	}
	return int64(s.Bavail) * int64(s.Bsize)
}

// killAgent kills the agent, and has it started again where nobody else does that.
func (l *lab) killAgent() error {
	if pid := strings.TrimSpace(l.m.read("/run/tandem.pid")); pid != "" {
		_, _ = l.m.inside("/bin/kill", "-9", pid) // it may have gone by itself
	}
	return l.m.until("the agent is started again", func() error {
		_, err := l.m.inside("/etc/init.d/tandem-agent", "status")
		if err != nil {
			_, err = l.m.inside("/etc/init.d/tandem-agent", "start")
		}
		return err
	})
}

// own asks the module's tandem about itself.
func (m *module) own() (own ownVersion, err error) {
	out, err := m.inside("/usr/bin/tandem", "version", "--json")
	if err != nil {
		return own, err
	}
	var doc struct{ Tandem *ownVersion }
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return own, err
	}
	if doc.Tandem != nil {
		own = *doc.Tandem
	} else if err := json.Unmarshal([]byte(out), &own); err != nil {
		return own, err
	}
	return own, nil
}

// owned checks which Tandem runs, and that it is confirmed, if it is to be.
func (l *lab) owned(version string, confirmed bool) error {
	own, err := l.m.own()
	if err != nil {
		return err
	}
	if own.Version != version || confirmed && own.Pending != "" {
		return fmt.Errorf("in place is %+v", own)
	}
	return nil
}

// keeps waits until a Tandem is confirmed, and usr_data has its copy.
func (l *lab) keeps(version string) error {
	return l.m.until("Tandem "+version+" is confirmed and kept", func() error {
		if err := l.owned(version, true); err != nil {
			return err
		}
		if kept := l.m.read(second); !strings.Contains(kept, `"version":"`+version+`"`) {
			return fmt.Errorf("%s is %.200q", second, kept)
		}
		return nil
	})
}

// brokenItself publishes a Tandem that is of no use, and wants the one before back,
// and the broken one revoked on both sides.
func (l *lab) brokenItself(version, good string, reset bool) error {
	if _, err := l.publish("tandem-" + version); err != nil {
		return err
	}
	if reset {
		err := l.m.until("Tandem "+version+" is on trial", func() error {
			if trial := l.m.read(program + ".trial"); !strings.Contains(trial, version) {
				return fmt.Errorf("on trial is %q", trial)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := l.m.reset("Tandem " + version + " cannot start the device"); err != nil {
			return err
		}
	}
	err := l.m.until("Tandem "+good+" is back, and "+version+" is revoked", func() error {
		if err := l.owned(good, true); err != nil {
			return err
		}
		own, err := l.m.own()
		if err == nil && (!slices.Contains(own.Revoked, version) || !strings.Contains(l.m.read(second), `"`+version+`"`)) {
			err = fmt.Errorf("revoked are %v, and on usr_data %.200q", own.Revoked, l.m.read(second))
		}
		return err
	})
	if err != nil {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

// hangs has the script be quick about one that makes no progress.
func (l *lab) hangs() error {
	conf := root + itself + "/start.conf"
	if err := os.WriteFile(conf, []byte("QUIET=12 LIMIT=1 DELAY=1\n"), 0o644); err != nil {
		return err
	}
	if err := l.brokenItself("4.0.0", "2.0.0", false); err != nil {
		return err
	}
	return os.Remove(conf)
}

// ownFactory flashes system with what the factory put there, an older Tandem and all:
// the newer one that usr_data keeps takes over, also where that is cut short.
func (l *lab) ownFactory(version string) error {
	if err := l.m.off(); err != nil {
		return err
	}
	if err := l.factory(); err != nil {
		return err
	}
	if err := l.m.on(); err != nil {
		return err
	}
	err := l.m.until("the newer Tandem is put in place", func() error {
		_, err := os.Lstat(root + program + ".next")
		if err != nil {
			_, err = os.Lstat(root + program + ".trial")
		}
		return err
	})
	if err != nil {
		return err
	}
	l.m.flash.Pull()
	if err := l.m.reset("system flashed, and cut again"); err != nil {
		return err
	}
	if err := l.expect("1.3.0", "Ada"); err != nil {
		return err
	}
	return l.keeps(version)
}
