package model

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"syscall"

	"tandem/backup"
	"tandem/internal/fsys/memfs"
	"tandem/internal/fsys/memfs/search"
	"tandem/ota"
	"tandem/versioning"
)

// scenario is an operation on a device with a past.
type scenario struct {
	name    string
	prepare func(d *device)
	work    func(d *device) error
	recover func(d *device) error // nil is a boot
	goal    string                // the version of both sides once work has succeeded
	world   func(w *world)        // what else the promises have to know; nil is nothing
	during  func(d *device) error // checked after a first cut besides the promises; may be nil
	after   func(d *device, version string) error
	disk    memfs.Options // of both partitions, besides those of the flavour
}

// flavours are the file systems that each scenario runs on.
var flavours = map[string]memfs.Options{
	"exchange":    {SyncCheap: true},                                          // a kernel of today
	"two renames": {NoExchange: true, NoSyncReports: true, CoarseMtime: true}, // Linux 3.18 and its UBIFS
}

// search makes the search of a scenario.
func (sc *scenario) search(flavour string) *search.Case {
	o := flavours[flavour]
	o.Capacity = sc.disk.Capacity
	d := newDevice(o)
	sc.prepare(d)
	d.sync()
	d.m.Restart(memfs.Everything())
	w := newWorld(d)
	w.versions = []string{sc.goal}
	if sc.world != nil {
		sc.world(w)
	}
	recover := sc.recover
	if recover == nil {
		recover = (*device).boot
	}
	expect := func(m *memfs.Machine) string {
		f, err := w.look(d.on(m))
		if err != nil {
			return err.Error()
		}
		return f.best()
	}
	return &search.Case{
		Name:    sc.name + "/" + flavour,
		Start:   d.m,
		Work:    func(m *memfs.Machine) error { return sc.work(d.on(m)) },
		Recover: func(m *memfs.Machine) error { return recover(d.on(m)) },
		Expect:  expect,
		During: func(m *memfs.Machine, first string) error {
			err := w.during(d.on(m), first == "")
			if err == nil && sc.during != nil && first == "" {
				err = sc.during(d.on(m))
			}
			return err
		},
		After: func(m *memfs.Machine, due string, err error) error {
			if err := w.after(d.on(m), due, err); err != nil || sc.after == nil {
				return err
			}
			return sc.after(d.on(m), due)
		},
		Done: func(m *memfs.Machine) error {
			if due := expect(m); due != sc.goal {
				return fmt.Errorf("the device must come to %q, expected %q", due, sc.goal)
			}
			return nil
		},
		Failed: failed,
	}
}

// failed wants to be told what kept an operation from its end.
func failed(fault, err error) error {
	told := true
	switch {
	case errors.Is(fault, syscall.ENOSPC):
		told = errors.Is(err, backup.ErrNoSpace) || errors.Is(err, ota.ErrNoSpace)
	case errors.Is(fault, syscall.EROFS):
		told = errors.Is(err, backup.ErrUnavailable) || errors.Is(err, ota.ErrNotWritable)
	}
	if !told {
		return fmt.Errorf("%v is told as: %w", fault, err)
	}
	return nil
}

// withConfig lets files of configuration have certain contents, whatever the version.
func withConfig(config map[string][]string) func(*world) {
	return func(w *world) { w.config = func(string) map[string][]string { return config } }
}

// installed brings a device to versions in turn.
func installed(versions ...string) func(d *device) {
	return func(d *device) {
		for _, v := range versions {
			must(d.installAndBackUp(v, backup.InstallOptions{}))
			d.m.Advance(10_000_000_000)
		}
	}
}

func then(steps ...func(d *device)) func(d *device) {
	return func(d *device) {
		for _, s := range steps {
			s(d)
		}
	}
}

// scenarios are the operations, by what they are for.
func scenarios() []*scenario {
	return slices.Concat(bootScenarios(), captureScenarios(), repairScenarios(), installScenarios(), partialScenarios(), rollbackScenarios(), tightScenarios(), otherScenarios())
}

func bootScenarios() []*scenario {
	return []*scenario{
		{name: "boot, first backup", prepare: func(d *device) { d.lay(backup.System, "1.0.0") }, work: (*device).boot, goal: "1.0.0"},
		{
			name: "boot, system lost", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				d.edit("etc/app.conf", "edited")
				must(d.boot())
				d.erase(backup.System)
			}),
			world: withConfig(map[string][]string{"etc/app.conf": {"edited"}}),
		},
		{
			name: "boot, usr_data lost", work: (*device).boot, goal: "1.1.0",
			prepare: then(installed("1.0.0", "1.1.0"), func(d *device) {
				d.edit("etc/app.conf", "edited")
				must(d.boot())
				d.erase(backup.UsrData)
			}),
			world: withConfig(map[string][]string{"etc/app.conf": {"edited"}}),
		},
		{
			name: "boot, files and tag changed by hand", work: (*device).boot, goal: "1.1.0",
			prepare: then(installed("1.0.0"), func(d *device) { d.lay(backup.System, "1.1.0") }),
		},
		{
			name: "boot, tag raised by hand on usr_data", work: (*device).boot, goal: "1.1.0",
			prepare: then(installed("1.0.0"), func(d *device) { d.lay(backup.UsrData, "1.1.0") }),
		},
		{
			name: "boot, factory reset", work: (*device).boot, goal: "1.1.0",
			prepare: then(installed("1.1.0"), func(d *device) {
				d.edit("etc/app.conf", "edited")
				must(d.boot())
				d.erase(backup.System)
				d.lay(backup.System, "1.0.0")
			}),
			world: withConfig(map[string][]string{"etc/app.conf": {"edited"}}),
		},
		{
			name: "boot, tags of the vendor's script", work: (*device).boot, goal: "2",
			prepare: func(d *device) { d.lay(backup.System, "1"); d.lay(backup.UsrData, "2") },
		},
		{
			name: "boot, backup nested by the vendor's script", work: (*device).boot, goal: "1",
			prepare: func(d *device) {
				d.lay(backup.UsrData, "1")
				fs := d.fs(backup.UsrData)
				must(fs.Rename(appsDir, "deeper"))
				must(fs.Mkdir(appsDir, 0o755))
				must(fs.Rename("deeper", "apps/apps"))
			},
		},
	}
}

func captureScenarios() []*scenario {
	edits := func(d *device) {
		d.edit("etc/app.conf", "edited twice")
		d.write(backup.System, "apps/etc/new.conf", "made by the application")
		d.write(backup.System, "apps/var/lib/state", "made by the application, too")
		d.write(backup.System, "apps/log/today", "a line of the log")
	}
	return []*scenario{
		{
			name: "backup, configuration edited", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) { d.edit("etc/app.conf", "edited once"); must(d.boot()) }, edits),
			world: func(w *world) {
				withConfig(map[string][]string{
					"etc/app.conf": {"edited twice"}, "etc/new.conf": {"made by the application"}, "var/lib/state": {"made by the application, too"},
				})(w)
				w.lossy("edited once")
			},
		},
		{
			name: "backup, configuration deleted and emptied", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), edits, func(d *device) {
				must(d.boot())
				d.remove(backup.System, "apps/etc/new.conf")
				d.write(backup.System, "apps/etc/app.conf", "")
			}),
			world: withConfig(map[string][]string{"etc/app.conf": {"edited twice"}, "etc/new.conf": {"made by the application"}}),
		},
		{
			name: "boot, newer configuration on usr_data and an edit on system", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				// An older system comes back, as from an image, and is edited.
				old := d.m.Clone()
				d.edit("etc/app.conf", "edited later, backed up")
				must(d.boot())
				back := d.on(old)
				back.edit("etc/app.conf", "edited on the old system")
				d.restoreSystem(back)
			}),
			world: withConfig(map[string][]string{"etc/app.conf": {"edited later, backed up"}, "etc/app.conf.conflict": {"edited on the old system", missing}}),
			after: func(d *device, _ string) error {
				if got, _ := d.read(backup.System, "apps/etc/app.conf.conflict"); got != "edited on the old system" {
					return fmt.Errorf("the edit that lost is %q", got)
				}
				return nil
			},
		},
	}
}

// lossy lets contents go that an edit replaces.
func (w *world) lossy(contents ...string) { w.loses = append(w.loses, contents...) }

// restoreSystem puts the sides' trees of another device's system in place of ours.
func (d *device) restoreSystem(from *device) {
	d.remove(backup.System, appsDir, ".tandem", tagFile)
	copyTree(from.fs(backup.System), d.fs(backup.System))
}

func repairScenarios() []*scenario {
	return []*scenario{
		{
			name: "repair, files missing on both sides", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				d.remove(backup.System, "apps/bin/app")
				d.remove(backup.UsrData, "apps/share/deep")
			}),
		},
		{
			name: "repair, bits flipped on both sides", work: (*device).repair, recover: (*device).repair, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				d.damage(backup.System, "share/deep/er/file")
				d.damage(backup.UsrData, "bin/app")
				d.damage(backup.UsrData, "bin/helper")
			}),
		},
		{
			name: "repair, attributes and stray files", work: (*device).boot, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				fs := d.fs(backup.System)
				i := get(fs.Lstat("apps/bin/app"))
				must(fs.SetAttr("apps/bin/app", attrOf(i, 0o600), i))
				d.write(backup.UsrData, "apps/bin/stray", "left by somebody on usr_data")
			}),
			world: func(w *world) { w.lossy("left by somebody on usr_data") },
		},
		{
			name: "boot, a file is restored from where bits flipped", work: bootWithDamage, recover: bootWithDamage, goal: "1.0.0",
			prepare: then(installed("1.0.0", "1.1.0"), func(d *device) {
				d.damage(backup.UsrData, "bin/app")
				d.erase(backup.System)
				d.lay(backup.System, "1.0.0")
			}),
		},
		{
			name: "boot, a damaged higher version", work: (*device).repair, recover: (*device).repair, goal: "1.0.0",
			prepare: then(installed("1.0.0"), func(d *device) {
				must(d.install("1.1.0", backup.InstallOptions{}))
				d.damage(backup.System, "bin/app")
			}),
		},
	}
}

// bootWithDamage is a boot on a device with damage that nobody can mend.
func bootWithDamage(d *device) error { return d.boot() }

func installScenarios() []*scenario {
	edited := func(d *device) { d.edit("etc/app.conf", "edited"); d.edit("etc/both.conf", "edited, too") }
	merged := func(w *world) {
		w.config = func(version string) map[string][]string {
			c := map[string][]string{"etc/app.conf": {"edited"}, "etc/both.conf": {"edited, too"}}
			if version == "1.1.0" {
				c["etc/both.conf.new"] = []string{"default of 1.1.0"}
			}
			return c
		}
	}
	installTo := func(v string, o backup.InstallOptions) func(*device) error {
		return func(d *device) error { return d.installAndBackUp(v, o) }
	}
	return []*scenario{
		{
			name: "install", goal: "1.1.0", work: installTo("1.1.0", backup.InstallOptions{}),
			prepare: then(installed("1.0.0"), edited, func(d *device) { must(d.boot()) }), world: merged,
		},
		{
			name: "install, configuration edited since the last backup", goal: "1.1.0", work: installTo("1.1.0", backup.InstallOptions{}),
			prepare: then(installed("0.9.0", "1.0.0"), edited), world: merged,
		},
		{name: "install, empty device", goal: "1.1.0", work: installTo("1.1.0", backup.InstallOptions{}), prepare: func(*device) {}},
		{
			name: "install, usr_data ahead", goal: "1.2.0", work: installTo("1.2.0", backup.InstallOptions{}),
			prepare: then(installed("1.1.0"), func(d *device) { d.erase(backup.System); d.lay(backup.System, "1.0.0") }),
			world:   func(w *world) { w.versions = append(w.versions, "1.1.0") },
		},
		{
			name: "install, downgrade", goal: "1.1.0", work: installTo("1.1.0", backup.InstallOptions{AllowDowngrade: true}),
			prepare: installed("1.0.0", "1.2.0"),
		},
		{
			name: "install, a revoked version by name", goal: "1.1.0", work: installTo("1.1.0", backup.InstallOptions{AllowRevoked: true}),
			prepare: then(installed("1.0.0", "1.1.0"), func(d *device) { must(d.rollback("")) }),
		},
		{
			name: "install, then confirmed", goal: "1.1.0", prepare: installed("1.0.0"),
			work: func(d *device) error {
				if err := d.installAndBackUp("1.1.0", backup.InstallOptions{Pending: true}); err != nil {
					return err
				}
				return d.confirm()
			},
			recover: (*device).confirm,
		},
		{
			name: "install, backup held back until confirmed", goal: "1.1.0", prepare: installed("1.0.0"), during: watched,
			work:    func(d *device) error { return d.install("1.1.0", backup.InstallOptions{Pending: true}) },
			recover: func(d *device) error { return errors.Join(d.bootHolding(), d.confirm()) },
		},
		{
			name: "install, rolled back as unhealthy", goal: "1.0.0", work: failedUpdate,
			prepare: then(installed("1.0.0"), func(d *device) { d.edit("etc/app.conf", "edited"); must(d.boot()) }),
			world: func(w *world) {
				withConfig(map[string][]string{"etc/app.conf": {"edited"}})(w)
				w.versions = append(w.versions, "1.1.0")
			},
		},
	}
}

// watched checks that a version that waits to be confirmed says so.
func watched(d *device) error {
	c := d.on(d.m.Clone())
	r := c.reconciler()
	if _, err := r.Recover(); err != nil {
		return err
	}
	if c.tag(backup.System) != "1.1.0" {
		return nil
	}
	p, err := r.Pending()
	if err == nil && (p == nil || p.Version.String() != "1.1.0" || p.Previous.String() != "1.0.0") {
		err = fmt.Errorf("1.1.0 runs, and what waits to be confirmed is %v", p)
	}
	return err
}

// failedUpdate installs a version that turns out to be bad.
func failedUpdate(d *device) error {
	if err := d.installAndBackUp("1.1.0", backup.InstallOptions{Pending: true}); err != nil {
		return err
	}
	return d.rollback("")
}

func rollbackScenarios() []*scenario {
	// What each version's configuration is, saved in place by the application.
	past := then(installed("1.0.0"), func(d *device) {
		d.edit("etc/app.conf", "as it was in 1.0.0")
		must(d.boot())
	}, installed("1.1.0"), func(d *device) {
		d.edit("etc/app.conf", "as 1.1.0 wants it")
		must(d.boot())
	})
	config := func(w *world) {
		w.config = func(version string) map[string][]string {
			if version == "1.0.0" {
				return map[string][]string{"etc/app.conf": {"as it was in 1.0.0"}}
			}
			return map[string][]string{"etc/app.conf": {"as 1.1.0 wants it"}}
		}
	}
	// A version that runs is not revoked, or the device would turn from it at
	// its next start; one that was left is, or it would come back.
	judged := func(left string) func(d *device, version string) error {
		return func(d *device, version string) error {
			bad, err := d.reconciler().Revoked()
			if err != nil {
				return err
			}
			is := slices.ContainsFunc(bad, func(v versioning.Version) bool { return v.String() == left })
			if is == (version == left) {
				return fmt.Errorf("the device has %s, and revoked is %v", version, bad)
			}
			return nil
		}
	}
	// The backup must not be of the version that was left while system already
	// has the one before: boot would go forward again.
	resolved := func(d *device) error {
		f, err := d.look()
		if err != nil {
			return err
		}
		if f.sides[backup.System].version == "1.0.0" && f.best() != "1.0.0" {
			return fmt.Errorf("system went back to 1.0.0, and the next boot goes to %s again", f.best())
		}
		return nil
	}
	// What came back for a release that was recalled is watched, and that recall is
	// done with.
	watched := func(d *device, version string) error {
		p, err := d.reconciler().Pending()
		if err != nil || version != "1.0.0" {
			return err
		}
		if p == nil || p.Version.String() != "1.0.0" || p.Previous.String() != "1.1.0" {
			return fmt.Errorf("1.0.0 came back, and nobody watches it: %v", p)
		}
		return judged("1.1.0")(d, version)
	}
	return []*scenario{
		{
			name: "recall", goal: "1.0.0", prepare: past, world: config, after: watched, during: resolved,
			work: func(d *device) error { return d.withdraw() },
		},
		{
			name: "recall of a version that waits to be confirmed", goal: "1.0.0", world: config, after: judged("1.1.0"), during: resolved,
			prepare: then(past, func(d *device) {
				must(d.reconciler().SetPending(backup.Pending{Version: parse("1.1.0"), Previous: parse("1.0.0")}))
			}),
			work: func(d *device) error { return d.withdraw() },
		},
		{
			name: "recall, and what came back is not well", goal: "1.1.0", world: config, after: judged("1.0.0"),
			prepare: then(past, func(d *device) { must(d.withdraw()) }),
			work:    func(d *device) error { return d.rollback("1.1.0") },
		},
		{
			name: "rollback", goal: "1.0.0", prepare: past, world: config, after: judged("1.1.0"), during: resolved,
			work: func(d *device) error { return d.rollback("") },
		},
		{
			name: "rollback, to a revoked version by name", goal: "1.1.0", world: config,
			prepare: then(past, func(d *device) { must(d.rollback("")) }), after: judged("1.0.0"),
			work: func(d *device) error { return d.rollback("1.1.0") },
		},
		{
			// The application writes in place: what a version left behind must
			// not change with it.
			name: "rollback, there and back", goal: "1.1.0", after: judged("1.0.0"),
			prepare: then(installed("1.0.0", "1.1.0"), func(d *device) {
				must(d.rollback(""))
				d.edit("etc/app.conf", "as 1.0.0 wants it")
				must(d.boot())
			}),
			work: func(d *device) error { return d.rollback("1.1.0") },
			world: func(w *world) {
				w.config = func(version string) map[string][]string {
					return map[string][]string{"etc/app.conf": {map[string]string{"1.0.0": "as 1.0.0 wants it", "1.1.0": "default"}[version]}}
				}
			},
		},
		{
			name: "rollback, before the first backup", goal: "1.0.0", after: judged("1.1.0"), during: resolved,
			prepare: then(installed("1.0.0"), func(d *device) { must(d.install("1.1.0", backup.InstallOptions{Pending: true})) }),
			work:    func(d *device) error { return d.rollback("") },
			// A boot before anything is revoked makes that first backup.
			world: func(w *world) { w.versions = append(w.versions, "1.1.0") },
		},
		{
			name: "revoke what runs", goal: "1.0.0", prepare: past, world: config, after: judged("1.1.0"),
			work: func(d *device) error {
				if err := d.reconciler().Revoke(parse("1.1.0")); err != nil {
					return err
				}
				return d.boot()
			},
		},
	}
}

func tightScenarios() []*scenario {
	config := withConfig(map[string][]string{"etc/app.conf": {"edited"}})
	past := then(installed("1.0.0-big"), func(d *device) { d.edit("etc/app.conf", "edited"); must(d.boot()) })
	small := memfs.Options{Capacity: 95 * 4096}
	return []*scenario{
		{
			name: "tight, install over previous", goal: "1.1.0-big", disk: memfs.Options{Capacity: 160 * 4096},
			prepare: then(installed("0.9.0-big"), past), world: config,
			work: func(d *device) error { return d.installAndBackUp("1.1.0-big", backup.InstallOptions{}) },
		},
		{
			name: "tight, install in place", goal: "1.1.0-big", disk: small, prepare: past,
			world: func(w *world) {
				config(w)
				w.inPlace = map[backup.SideName]bool{backup.System: true, backup.UsrData: true}
			},
			work: func(d *device) error { return d.installAndBackUp("1.1.0-big", backup.InstallOptions{}) },
		},
		{
			name: "tight, backup in place", goal: "1.1.0-big", disk: small,
			prepare: then(past, func(d *device) {
				fs := d.fs(backup.System)
				conf, _ := d.read(backup.System, "apps/etc/app.conf")
				must(errors.Join(fs.Remove("apps/bin/big"), fs.Remove("apps/share/1.0.0-big")))
				for name, content := range release("1.1.0-big") {
					if old, _ := d.read(backup.System, path.Join(appsDir, name)); old != content {
						d.write(backup.System, path.Join(appsDir, name), content)
					}
				}
				d.write(backup.System, "apps/etc/app.conf", conf)
				d.write(backup.System, tagFile, "1.1.0-big\n")
			}),
			world: func(w *world) {
				config(w)
				w.inPlace = map[backup.SideName]bool{backup.UsrData: true}
			},
			work: (*device).boot,
		},
	}
}

func otherScenarios() []*scenario {
	return []*scenario{
		{
			name: "bump", goal: "1.0.1",
			prepare: then(installed("1.0.0"), func(d *device) { d.edit("etc/app.conf", "edited") }),
			world:   withConfig(map[string][]string{"etc/app.conf": {"edited"}}),
			work: func(d *device) error {
				_, err := d.reconciler().Bump(context.Background(), func(versioning.Version) (versioning.Version, error) { return parse("1.0.1"), nil })
				if err != nil {
					return err
				}
				return d.boot()
			},
		},
		{
			name: "unrevoke", goal: "1.0.0",
			prepare: then(installed("1.0.0", "1.1.0"), func(d *device) { must(d.rollback("")) }),
			work:    func(d *device) error { return d.reconciler().Unrevoke(parse("1.1.0")) },
		},
		{
			name: "revoke what does not run", goal: "1.0.0", prepare: installed("1.0.0"),
			work: func(d *device) error { return d.reconciler().Revoke(parse("1.1.0"), parse("1.2.0")) },
		},
	}
}
