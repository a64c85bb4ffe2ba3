//go:build linux

// Command guest is the init of the whole machine. It is no part of the module:
// it plays the power switch, the flashing tool and the person at the keyboard.
// Only as "measure" the module runs it, to see what its start scripts cost.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/test/internal/guest"
	"tandem/test/internal/guest/nand"
)

func main() {
	if filepath.Base(os.Args[0]) != "measure" {
		guest.Main(run)
	} else if err := measure(os.Args[1], os.Args[2:]...); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

type lab struct {
	m     *module
	o     guest.Options
	steps []step
}

// step is what is printed at the end.
type step struct {
	what    string
	took    time.Duration
	written int
}

func run(o guest.Options) error {
	begin := time.Now()
	if err := guest.LoadModules("nandsim"); err != nil {
		return err
	}
	m, err := newModule(os.Getenv("LAB_HOST"))
	if err != nil {
		return err
	}
	if err := m.flash.Set(nand.Geometry{Blocks: 4096, Volume: 1900, Spare: 1}); err != nil {
		return err
	}
	l := &lab{m: m, o: o}
	if err := l.story(); err != nil {
		m.tell()
		return err
	}
	l.print(time.Since(begin))
	return nil
}

// do runs a step and remembers what it cost.
func (l *lab) do(what string, f func() error) error {
	fmt.Printf("== %s\n", what)
	start, before := time.Now(), l.m.written()
	err := f()
	s := step{what, time.Since(start), l.m.written() - before}
	l.steps = append(l.steps, s)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("   %.1f s, %d KiB written to NAND\n", s.took.Seconds(), s.written>>10)
	return nil
}

func (l *lab) story() error {
	for _, s := range []struct {
		what string
		f    func() error
	}{
		{"the factory puts 1.0.0 on system; first start", l.first},
		{"update to 1.1.0, reset during the download", l.download},
		{"update to 1.2.0 by delta, reset during the installation", func() error {
			return l.cut("1.2.0", guest.Live+"/.tandem/next")
		}},
		{"update to 1.3.0 by delta, reset during the backup", func() error {
			return l.cut("1.3.0", guest.Backup+"/.tandem/next")
		}},
		{"the configuration is edited; reset", l.edit},
		{"system is erased and flashed as in the factory", l.reflash},
		{"usr_data is erased", l.erase},
		{"an unhealthy 1.4.0 is rolled back; reset", l.unhealthy},
		{"Tandem updates itself to 2.0.0, cut at random", func() error { return l.updateItself("2.0.0", l.o.Cuts, l.o.Seed) }},
		{"a Tandem that crashes in boot is gone back from", func() error { return l.brokenItself("3.0.0", "2.0.0", true) }},
		{"a Tandem that hangs is gone back from", l.hangs},
		{"system is flashed as in the factory, with its older Tandem, and cut", func() error { return l.ownFactory("2.0.0") }},
	} {
		if err := l.do(s.what, s.f); err != nil {
			return err
		}
	}
	return nil
}

// factory flashes system as the factory does.
func (l *lab) factory() error {
	if err := l.m.flash.Erase(root + guest.SystemDir); err != nil {
		return err
	}
	if code, out := guest.Run("busybox", "cp", "-a", "/factory/apprun", "/factory/tandem", root+guest.SystemDir); code != 0 {
		return fmt.Errorf("copy the factory's version: %s", out)
	}
	return nil
}

func (l *lab) first() error {
	if err := l.factory(); err != nil {
		return err
	}
	if err := l.m.reset("first start"); err != nil {
		return err
	}
	return l.expect("1.0.0", "World")
}

// download lets the server stop in the middle, and resets the module then. What
// was there already is not sent again.
func (l *lab) download() error {
	const part = 400_000
	if _, err := l.m.ask("POST", fmt.Sprintf("/limit/%d", part)); err != nil {
		return err
	}
	size, err := l.publish("1.1.0")
	if err != nil {
		return err
	}
	if err := l.m.until("part of the bundle is on flash", func() error { return l.m.partial(part / 2) }); err != nil {
		return err
	}
	// What stands still goes on standing still; what comes next does not.
	if _, err := l.m.ask("POST", "/limit/0"); err != nil {
		return err
	}
	if err := l.m.reset("download cut"); err != nil {
		return err
	}
	if err := l.expect("1.0.0", "World"); err != nil {
		return err
	}
	if err := l.updated("1.1.0", "World"); err != nil {
		return err
	}
	sent, err := l.m.number("GET", "/sent")
	fmt.Printf("   the bundle has %d bytes; %d were sent in all\n", size, sent)
	if err == nil && sent > size+part/2 {
		err = fmt.Errorf("the download was not resumed: %d bytes were sent of a bundle of %d", sent, size)
	}
	return err
}

// cut resets the module while a version, which comes as a delta bundle, is staged
// at a place.
func (l *lab) cut(version, place string) error {
	size, err := l.publish(version)
	if err != nil {
		return err
	}
	err = l.m.until(place+" appears", func() error {
		_, err := os.Lstat(root + place)
		return err
	})
	if err != nil {
		return err
	}
	l.m.flash.Pull()
	before := l.m.versions()
	if err := l.m.reset("cut, " + before + " then"); err != nil {
		return err
	}
	// Which of the two it is now depends on the moment.
	v, err := l.m.anyVersion("1.1.0", "1.2.0", "1.3.0")
	if err != nil {
		return err
	}
	fmt.Printf("   after the start it runs %s\n", v)
	err = l.updated(version, "World")
	l.m.log()
	if err != nil {
		return err
	}
	sent, err := l.m.number("GET", "/sent")
	fmt.Printf("   %d bytes were received; the whole bundle has %d\n", sent, size)
	// One library of 100 kB is another one; the program is patched.
	if err == nil && sent > 200_000 {
		err = fmt.Errorf("%d bytes were received: expected those of a delta bundle", sent)
	}
	return err
}

func (l *lab) edit() error {
	if err := os.WriteFile(root+guest.Live+"/apps/etc/app.conf", []byte("name=Ada\n"), 0o644); err != nil {
		return err
	}
	err := l.m.until("the agent captures the edit", func() error {
		data, err := os.ReadFile(root + guest.Backup + "/apps/etc/app.conf")
		if err == nil && string(data) != "name=Ada\n" {
			err = fmt.Errorf("usr_data has %q", data)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := l.m.reset("edited"); err != nil {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

func (l *lab) reflash() error {
	if err := l.m.off(); err != nil {
		return err
	}
	if err := l.factory(); err != nil {
		return err
	}
	if err := l.m.reset("system flashed"); err != nil {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

func (l *lab) erase() error {
	if err := l.m.off(); err != nil {
		return err
	}
	if err := l.m.flash.Erase(root + guest.UsrDataDir); err != nil {
		return err
	}
	if err := l.m.reset("usr_data erased"); err != nil {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

func (l *lab) unhealthy() error {
	if _, err := l.publish("1.4.0"); err != nil {
		return err
	}
	err := l.m.until("1.4.0 is revoked", func() error {
		for _, dir := range []string{guest.Live, guest.Backup} {
			if revoked := l.m.read(dir + "/.tandem/revoked.json"); !strings.Contains(revoked, "1.4.0") {
				return fmt.Errorf("%s: revoked: %q", dir, revoked)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.expect("1.3.0", "Ada"); err != nil {
		return err
	}
	if err := l.m.reset("rolled back"); err != nil {
		return err
	}
	return l.expect("1.3.0", "Ada")
}

// publish adds a release to the repository and gives the size of its bundle.
func (l *lab) publish(version string) (int, error) { return l.m.number("POST", "/publish/"+version) }

// updated waits for the agent to have installed, proved and backed up a release.
func (l *lab) updated(version, name string) error {
	err := l.m.until("the agent updates to "+version, func() error {
		pending := l.m.read(guest.Live+"/.tandem/pending.json") + l.m.read(guest.Backup+"/.tandem/pending.json")
		if got := l.m.versions(); got != version+" and "+version || pending != "" {
			return fmt.Errorf("the sides have %s; pending: %s", got, pending)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.expect(version, name)
}

// expect checks all that can be seen from outside: what the application says,
// and that both sides are intact and in step, every byte of them.
func (l *lab) expect(version, name string) error {
	want := version + " " + name
	err := l.m.until("the application answers "+want, func() error {
		got, err := l.m.answer()
		if err == nil && got != want {
			err = fmt.Errorf("it answers %q", got)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = l.m.until("both sides hold "+version, func() error {
		s, err := l.m.status()
		if err == nil && !s.inStep(version) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("   ok: it answers %q; both sides hold %s\n", want, version)
	return nil
}

func (l *lab) print(took time.Duration) {
	fmt.Println("== What each step took")
	for _, s := range l.steps {
		fmt.Printf("  %6.1f s %6d KiB to NAND  %s\n", s.took.Seconds(), s.written>>10, s.what)
	}
	fmt.Println("== What each start took: all of it; tandem boot of it, with its script; the peak memory of tandem boot; the agent's until the next reset")
	for _, s := range l.m.starts {
		fmt.Printf("  %6.1f s  %5.2f s  %6d KiB  %6d KiB  %s\n", s.all.Seconds(), s.boot.Seconds(), s.memory, s.agent, s.why)
	}
	fmt.Printf("%d starts, %d KiB written to NAND, %.0f s in all: the application answered after each\n", len(l.m.starts), l.m.written()>>10, took.Seconds())
}
