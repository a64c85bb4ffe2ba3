//go:build linux

package guest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tandem/versioning"
)

// Operation is something during which the power fails.
type Operation struct {
	Name string
	// prepare makes ready for it, without a cut, and says what to run. now is
	// what both sides hold.
	prepare func(l *Lab, now Tree) (task, error)
}

// task is an operation made ready.
type task struct {
	args  []string // of tandem
	legal []Tree   // what the sides may hold after the boot that follows a cut
	done  Tree     // what they must hold once it has said that it succeeded; nil: any but the first of legal
	least string   // once one side is this version, both must be after the boot
}

// The operations, as an operator names them.
var Operations = []*Operation{
	{"back up", func(l *Lab, now Tree) (task, error) {
		hand, err := l.ByHand(now)
		return task{args: []string{"boot"}, legal: []Tree{hand}, done: hand}, err
	}},
	{"restore", func(l *Lab, now Tree) (task, error) {
		return task{args: []string{"boot"}, legal: []Tree{now}, done: now}, l.Erase(SystemDir)
	}},
	{"back up again", func(l *Lab, now Tree) (task, error) {
		return task{args: []string{"boot"}, legal: []Tree{now}, done: now}, l.Erase(UsrDataDir)
	}},
	{"restore over the factory's version", func(l *Lab, now Tree) (task, error) {
		return task{args: []string{"boot"}, legal: []Tree{now}, done: now}, l.factory()
	}},
	{"install", func(l *Lab, now Tree) (task, error) {
		v := l.otherVersion(now)
		next := AfterInstall(l.Releases[v], now)
		t := task{args: []string{"install", "--allow-downgrade", "--allow-revoked", l.Bundle(v)}, legal: []Tree{now, next}, done: next}
		if newer(v, now["tag"]) {
			t.least = v
		}
		return t, nil
	}},
	{"rollback", func(l *Lab, now Tree) (task, error) {
		legal := kept(now)
		fromFactory := func(t Tree) bool { return strings.HasPrefix(t["tag"], "0.") }
		if len(legal) == 1 || slices.ContainsFunc(legal, fromFactory) {
			// There is nothing to return to yet, or only a version without a record,
			// all of whose files would stay as configuration from then on.
			var err error
			if now, err = l.installOther(now); err != nil {
				return task{}, err
			}
			legal = kept(now)
		}
		return task{args: []string{"rollback"}, legal: legal}, nil
	}},
	{"capture", func(l *Lab, now Tree) (task, error) {
		edited, err := l.Edit(true)
		return task{args: []string{"backup"}, legal: []Tree{edited}, done: edited}, err
	}},
	{"capture of a careless edit", func(l *Lab, now Tree) (task, error) {
		edited, err := l.Edit(false)
		return task{args: []string{"backup"}, legal: []Tree{now, edited}, done: edited}, err
	}},
	{"repair", func(l *Lab, now Tree) (task, error) {
		// A version that came without a record has no application files: what
		// differs there is an edit.
		if strings.HasPrefix(now["tag"], "0.") {
			var err error
			if now, err = l.installOther(now); err != nil {
				return task{}, err
			}
		}
		return task{args: []string{"verify", "--repair"}, legal: []Tree{now}, done: now}, l.damage()
	}},
}

// Named are the operations of these names, in the order of Operations.
func Named(names ...string) []*Operation {
	return slices.DeleteFunc(slices.Clone(Operations), func(op *Operation) bool { return !slices.Contains(names, op.Name) })
}

// otherVersion is a release that is not installed.
func (l *Lab) otherVersion(now Tree) string {
	versions := slices.Sorted(maps.Keys(l.Releases))
	versions = slices.DeleteFunc(versions, func(v string) bool { return v == now["tag"] })
	return versions[l.Rand.IntN(len(versions))]
}

// installOther installs one, without a cut.
func (l *Lab) installOther(now Tree) (Tree, error) {
	v := l.otherVersion(now)
	if code, out := Tandem("install", "--allow-downgrade", "--allow-revoked", l.Bundle(v)); code != 0 {
		return nil, fmt.Errorf("install %s first: exit code %d: %s", v, code, out)
	}
	return ReadSide(Live)
}

func newer(a, b string) bool {
	x, errX := versioning.Parse(a)
	y, errY := versioning.Parse(b)
	return errX == nil && errY == nil && x.Compare(y) > 0
}

// factory leaves system as the factory does: an old application, its tag, and
// no record.
func (l *Lab) factory() error {
	if err := l.Erase(SystemDir); err != nil {
		return err
	}
	if err := os.Mkdir(Live, 0o755); err != nil {
		return err
	}
	if code, out := Run("busybox", "cp", "-a", l.folder+"/1.0.0", Live+"/apps"); code != 0 {
		return fmt.Errorf("copy the factory's version: %s", out)
	}
	Run("busybox", "sync")
	if err := Replace(Live+"/app_ver.txt", []byte("0.9.0\n")); err != nil {
		return err
	}
	return syncDir(SystemDir)
}

// damage spoils a file on each side, in different places.
func (l *Lab) damage() error {
	libs := names(Live + "/apps/lib")
	if len(libs) < 2 {
		return fmt.Errorf("only %d libraries to damage", len(libs))
	}
	l.Rand.Shuffle(len(libs), func(i, j int) { libs[i], libs[j] = libs[j], libs[i] })
	if err := Replace(filepath.Join(Live, "apps/lib", libs[0]), []byte("damaged")); err != nil {
		return err
	}
	return Replace(filepath.Join(Backup, "apps/lib", libs[1]), nil)
}

func names(dir string) (list []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// kept is the version of now, and then those that a rollback may return to.
func kept(now Tree) []Tree {
	legal := []Tree{now}
	for _, dir := range []string{Live, Backup} {
		if t, err := ReadSide(dir + "/.tandem/previous"); err == nil && t["tag"] != "" && t["tag"] != now["tag"] {
			legal = append(legal, t)
		}
	}
	return legal
}
