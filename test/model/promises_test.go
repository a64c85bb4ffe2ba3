package model

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// The promises P1 to P6, each a function that looks at a device and knows what
// the code under test does not: what each release holds, and what the device
// held when the operation began. Their errors begin with the promise's name.

// world is what a scenario knows.
type world struct {
	start   *facts
	sound   map[backup.SideName]bool // sides that held what the last backup captured
	outside map[string]string        // what is not ours, by disk and path
	ours    []string                 // what no release ships, and so nobody could bring back
	// versions are those that a side may hold whole besides what it held.
	versions []string
	// inPlace says that a side may be written over: what was there is gone before
	// the new is whole, so the other side has to have it.
	inPlace map[backup.SideName]bool
	// config gives the contents that a file of configuration may have once a
	// version is there again.
	config func(version string) map[string][]string
	// loses are contents that may go.
	loses []string

	survived  map[[32]byte]bool // what the loss of a side left, by its fingerprint
	seen      *memfs.Machine
	seenFacts *facts
}

// newWorld looks at the device before the operation.
func newWorld(d *device) *world {
	f := get(d.look())
	w := &world{start: f, outside: d.outside(), sound: d.sound(), survived: map[[32]byte]bool{}}
	defaults := map[string]bool{}
	for _, v := range []string{"0.9.0", "1", "1.0.0", "1.1.0", "1.2.0", "2", "1.0.0-big", "1.1.0-big", "1.0.0-prog", "1.1.0-prog"} {
		for _, content := range release(v) {
			defaults[content] = true
		}
	}
	for _, s := range f.sides {
		for _, content := range s.files {
			if !defaults[content] && !strings.HasPrefix(content, damaged) && content != "" && !slices.Contains(w.ours, content) {
				w.ours = append(w.ours, content)
			}
		}
	}
	slices.Sort(w.ours)
	return w
}

// look is device.look, once for a device that is asked about several things.
func (w *world) look(d *device) (*facts, error) {
	if w.seen != d.m {
		f, err := d.look()
		if err != nil {
			return nil, err
		}
		w.seen, w.seenFacts = d.m, f
	}
	return w.seenFacts, nil
}

// sound says which sides hold the highest version with its newest configuration.
func (d *device) sound() map[backup.SideName]bool {
	res, err := d.reconciler().Look(context.Background(), backup.Options{})
	sound := map[backup.SideName]bool{}
	if err != nil {
		return sound
	}
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		sound[s.Side] = s.State == backup.Intact && s.Version.Compare(res.Version) == 0 && s.Revision == res.Revision
	}
	return sound
}

// P1: at every instant at least one side holds a complete version. What was
// complete before is complete, in its old or its new version.
func P1(w *world, f *facts) error {
	had, have := false, false
	for _, side := range sides {
		was, is := w.start.sides[side], f.sides[side]
		had = had || w.start.mendable(side)
		have = have || f.mendable(side)
		if was.version == "" || w.inPlace[side] {
			continue
		}
		if is.version != was.version {
			if !slices.Contains(w.versions, is.version) {
				return fmt.Errorf("P1: %s held %s, now %q, which is neither that nor one of %v", side, was.version, is.version, w.versions)
			}
			if len(is.bad) > 0 && len(was.bad) == 0 {
				return fmt.Errorf("P1: %s holds a version %s that is not whole: %v", side, is.version, is.bad)
			}
			continue
		}
		for name, why := range is.bad {
			if was.bad[name] == "" {
				return fmt.Errorf("P1: %s held %s whole, now %s %s", side, was.version, name, why)
			}
		}
	}
	if had && !have {
		return errors.New("P1: no side holds a complete version any more")
	}
	return nil
}

// P2: after boot both sides are identical and complete, at the version that is
// due, and nothing of the work is left.
func P2(w *world, d *device, due string, err error) error {
	if due == "" {
		if !errors.Is(err, backup.ErrNoApplication) && !errors.Is(err, backup.ErrDamage) {
			return fmt.Errorf("P2: there is no version, and boot says %v", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("P2: boot: %w", err)
	}
	records := map[backup.SideName]string{}
	for _, side := range sides {
		if got := d.tag(side); got != due {
			return fmt.Errorf("P2: %s has the tag %q, due is %s", side, got, due)
		}
		if bad := d.wrong(side, appsDir, due); len(bad) > 0 {
			return fmt.Errorf("P2: %s is not whole: %v", side, bad)
		}
		infos, err := d.fs(side).ReadDir(".tandem")
		if err != nil {
			return fmt.Errorf("P2: %w", err)
		}
		for _, i := range infos {
			if i.Name == path.Base(commitFile) || i.Name == path.Base(nextDir) || strings.HasSuffix(i.Name, ".tmp") {
				return fmt.Errorf("P2: %s: .tandem/%s is left", side, i.Name)
			}
		}
		records[side], _ = d.read(side, recordFile)
		rec, err := d.record(side)
		if err != nil {
			return fmt.Errorf("P2: %s: %w", side, err)
		}
		for _, was := range w.start.sides {
			if was.version == due && rec.Revision < was.revision {
				return fmt.Errorf("P2: %s has revision %d of %s, it had %d", side, rec.Revision, due, was.revision)
			}
		}
	}
	if records[backup.System] != records[backup.UsrData] {
		return errors.New("P2: the sides have different records")
	}
	app := map[string]bool{}
	for _, e := range get(d.record(backup.System)).Manifest.Files {
		app[string(e.Path)] = true
	}
	if diff := difference(d.tree(backup.System, app), d.tree(backup.UsrData, app)); diff != "" {
		return fmt.Errorf("P2: the sides differ: %s", diff)
	}
	return nil
}

// tree describes what is to be the same on both sides. Times count for
// application files alone: configuration may have been written again as it was.
func (d *device) tree(side backup.SideName, app map[string]bool) map[string]string {
	t := map[string]string{}
	walk(d.fs(side), appsDir, func(name string, i fsys.Info, content string) {
		name = strings.TrimPrefix(name, appsDir+"/")
		if strings.HasPrefix(name, "log") { // ignored, and so on system only
			return
		}
		mtime := i.Mtime
		if i.Type != fsys.TypeFile || isConfig(name) || !app[name] {
			mtime = 0
		}
		t[name] = fmt.Sprintf("%s %04o %d:%d %d %.60q", i.Type, i.Mode, i.UID, i.GID, mtime, content)
	})
	return t
}

// difference names the first name that two trees differ in; "" if none.
func difference(a, b map[string]string) string {
	names := slices.Sorted(maps.Keys(a))
	for n := range b {
		if _, ok := a[n]; !ok {
			names = append(names, n)
		}
	}
	for _, n := range names {
		if a[n] != b[n] {
			return fmt.Sprintf("%s: %q, %q", n, a[n], b[n])
		}
	}
	return ""
}

// P3: a tag never names a version whose files are not all durable. d was just
// restarted: what is there is durable. While commit.json is there, files may lie
// where they were staged, or in the undo log.
func P3(w *world, d *device) error {
	for _, side := range sides {
		tag := d.tag(side)
		if tag == "" {
			continue
		}
		was := w.start.sides[side]
		bad := d.wrong(side, d.root(side), tag)
		if was.version == tag {
			maps.DeleteFunc(bad, func(name, _ string) bool { return was.bad[name] != "" })
		}
		if len(bad) == 0 {
			continue
		}
		if _, err := d.fs(side).Lstat(commitFile); err == nil {
			have := map[string]bool{}
			for _, root := range []string{appsDir, nextDir, prevDir} {
				walk(d.fs(side), root, func(_ string, _ fsys.Info, content string) { have[content] = true })
			}
			// The side is the version that was committed; until the tag follows it may
			// be either.
			for _, v := range append([]string{tag}, w.versions...) {
				all := true
				for name, content := range release(v) {
					all = all && (isConfig(name) || have[content] || was.version == v && was.bad[name] != "")
				}
				if all {
					clear(bad)
				}
			}
		}
		if len(bad) > 0 {
			return fmt.Errorf("P3: %s has the tag %s, but not all of its files: %v", side, tag, bad)
		}
	}
	return nil
}

// P4: configuration captured by a successful backup survives the loss of
// either partition. d is as a power cut left it.
func P4(w *world, d *device, f *facts) error {
	for _, lost := range sides {
		if left := lost.Other(); !w.sound[left] || !f.sides[left].complete() || w.inPlace[left] {
			continue // no backup that succeeded left it there
		}
		c := d.on(d.m.Clone())
		if _, err := c.reconciler().Recover(); err != nil {
			return fmt.Errorf("P4: %w", err)
		}
		c.erase(lost)
		k := c.m.Fingerprint()
		if w.survived[k] {
			continue // the same was left of another state
		}
		left, err := c.look()
		if err != nil {
			return fmt.Errorf("P4: %s lost: %w", lost, err)
		}
		due := left.best()
		if due == "" {
			return fmt.Errorf("P4: %s lost: nothing is left", lost)
		}
		if err := P2(w, c, due, c.boot()); err != nil {
			return fmt.Errorf("P4: %s lost: %w", lost, err)
		}
		if err := configured(w, c, due, true); err != nil {
			return fmt.Errorf("P4: %s lost: %w", lost, err)
		}
		w.survived[k] = true
	}
	return nil
}

// configured checks the configuration of a device that is in step: it is what
// the scenario allows, or, where a partition was lost, what was captured last.
func configured(w *world, d *device, version string, captured bool) error {
	if w.config == nil {
		return nil
	}
	for name, allowed := range w.config(version) {
		if captured {
			content, ok := w.start.sides[backup.UsrData].files[name]
			if !ok {
				content = missing
			}
			allowed = append(slices.Clip(allowed), content)
		}
		for _, side := range sides {
			got, ok := d.read(side, path.Join(appsDir, name))
			if !ok {
				got = missing
			}
			if !slices.Contains(allowed, got) {
				return fmt.Errorf("%s: %s %s has %q, expected one of %q", version, side, name, got, allowed)
			}
		}
	}
	return nil
}

// missing stands for a file that is not there among contents.
const missing = "(missing)"

// P5: damage is never copied. A damaged file is where it was damaged, or
// nowhere.
func P5(w *world, d *device) (err error) {
	for _, side := range sides {
		root := d.root(side)
		walk(d.fs(side), root, func(name string, _ fsys.Info, content string) {
			if strings.HasPrefix(content, damaged) && w.start.sides[side].files[strings.TrimPrefix(name, root+"/")] != content {
				err = fmt.Errorf("P5: %s: %s holds what was damaged elsewhere", side, name)
			}
		})
	}
	return err
}

// P6: nothing outside the sides is written, and nothing is deleted for which no
// better copy exists: what no release ships lies somewhere on a side.
func P6(w *world, d *device) error {
	if diff := difference(w.outside, d.outside()); diff != "" {
		return fmt.Errorf("P6: outside of the sides: %s", diff)
	}
	have := map[string]bool{}
	for _, side := range sides {
		walk(d.fs(side), ".", func(_ string, _ fsys.Info, content string) { have[content] = true })
	}
	for _, content := range w.ours {
		if !have[content] && !slices.Contains(w.loses, content) {
			return fmt.Errorf("P6: %q was deleted, and there is no other copy", content)
		}
	}
	return nil
}

// outside describes what is not Tandem's on both disks.
func (d *device) outside() map[string]string {
	t := map[string]string{}
	for _, side := range sides {
		walk(d.disk(side).FS(), ".", func(name string, i fsys.Info, content string) {
			if i.Type == fsys.TypeDir {
				t[string(side)+"/"+name] = fmt.Sprintf("%04o", i.Mode)
				return
			}
			t[string(side)+"/"+name] = fmt.Sprintf("%04o %d %s", i.Mode, i.Mtime, content)
		}, dir(side), stateDir)
	}
	return t
}

// during checks a device that a cut or an error has left. What the loss of a
// partition leaves is looked at after a first cut only: that takes two boots.
func (w *world) during(d *device, first bool) error {
	if err := P3(w, d); err != nil {
		return err
	}
	f, err := w.look(d)
	if err != nil {
		return err
	}
	err = errors.Join(P1(w, f), P5(w, d), P6(w, d))
	if err == nil && first {
		err = P4(w, d, f)
	}
	return err
}

// after checks a device that has recovered.
func (w *world) after(d *device, due string, err error) error {
	if err := P2(w, d, due, err); err != nil || due == "" {
		return err
	}
	if err := configured(w, d, due, false); err != nil {
		return fmt.Errorf("P4: %w", err)
	}
	return errors.Join(P5(w, d), P6(w, d))
}
