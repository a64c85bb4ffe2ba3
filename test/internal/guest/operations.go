//go:build linux

package guest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

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
	// promise says what is wrong after the boot with what the operation has said
	// to be done; nil is nothing.
	promise func() string
	// mends says that the sides lack something until the operation is done: a boot
	// says so, and the operation, let to its end, has to succeed.
	mends bool
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
		return l.toward(v, now, "install", "--allow-downgrade", "--allow-revoked", l.Bundle(v)), nil
	}},
	{"install a delta bundle", func(l *Lab, now Tree) (task, error) {
		base, err := l.installOther(now)
		if err != nil {
			return task{}, err
		}
		v := l.otherVersion(base)
		delta := fmt.Sprintf("%s/delta-%s-%s", l.folder, base["tag"], v)
		t := l.toward(v, base, "install", "--allow-downgrade", "--allow-revoked", delta)
		return t, nil
	}},
	{"update by ranges", update("ranges")},
	{"update by a delta bundle", update("delta")},
	{"update by a delta bundle with a damaged base", updateWithout},
	{"update from a server without ranges", update("whole")},
	{"rollback", func(l *Lab, now Tree) (task, error) {
		bad, err := l.installOther(now)
		if err == nil {
			bad, err = l.editAndBackUp()
		}
		return back(bad, now), err
	}},
	{"rollback, there and back", func(l *Lab, now Tree) (task, error) {
		other, err := l.installOther(now)
		if err != nil {
			return task{}, err
		}
		if code, out := Tandem(back(other, now).args...); code != 0 {
			return task{}, fmt.Errorf("roll back first: exit code %d: %s", code, out)
		}
		edited, err := l.editAndBackUp()
		return back(edited, other), err
	}},
	{"capture", func(l *Lab, now Tree) (task, error) {
		edited, err := l.Edit(true)
		return task{args: []string{"backup"}, legal: []Tree{edited}, done: edited}, err
	}},
	{"capture of a careless edit", func(l *Lab, now Tree) (task, error) {
		edited, err := l.Edit(false)
		return task{args: []string{"backup"}, legal: []Tree{now, edited}, done: edited}, err
	}},
	{"bump", func(l *Lab, now Tree) (task, error) {
		l.counter++
		version := counted(now["tag"], l.counter)
		if err := Replace(Live+"/apps/bin/app", []byte("made by hand, "+version)); err != nil {
			return task{}, err
		}
		if err := os.Chmod(Live+"/apps/bin/app", 0o755); err != nil {
			return task{}, err
		}
		unix.Sync()
		bumped, err := ReadSide(Live)
		bumped["tag"] = version
		return task{args: []string{"bump", version}, legal: []Tree{now, bumped}, done: bumped, least: version}, err
	}},
	{"revoke", func(l *Lab, now Tree) (task, error) {
		l.counter++
		version := counted("9.9", l.counter)
		return task{args: []string{"revoke", version}, legal: []Tree{now}, done: now, promise: func() string {
			code, out := Tandem("status", "--json")
			if !strings.Contains(out, `"`+version+`"`) {
				return fmt.Sprintf("%s was revoked, and is not any more (exit code %d): %s", version, code, out)
			}
			return ""
		}}, nil
	}},
	{"repair", func(l *Lab, now Tree) (task, error) {
		return task{args: []string{"verify", "--repair"}, legal: []Tree{now}, done: now}, l.damage()
	}},
}

// toward is the installation of a release.
func (l *Lab) toward(version string, now Tree, args ...string) task {
	next := AfterInstall(l.Releases[version], now)
	t := task{args: args, legal: []Tree{now, next}, done: next}
	if newer(version, now["tag"]) {
		t.least = version
	}
	return t
}

// update is an update to the highest release of a repository, from another one.
func update(server string) func(l *Lab, now Tree) (task, error) {
	return func(l *Lab, now Tree) (task, error) {
		versions := slices.Sorted(maps.Keys(l.Releases))
		highest := versions[len(versions)-1]
		older := versions[:len(versions)-1]
		l.Rand.Shuffle(len(older), func(i, j int) { older[i], older[j] = older[j], older[i] })
		// What is kept for a rollback is not the highest, or nothing would have to come.
		for _, v := range older {
			if code, out := Tandem("install", "--allow-downgrade", "--allow-revoked", l.Bundle(v)); code != 0 {
				return task{}, fmt.Errorf("install %s first: exit code %d: %s", v, code, out)
			}
		}
		if code, out := Tandem("unrevoke", highest); code != 0 {
			return task{}, fmt.Errorf("unrevoke %s: exit code %d: %s", highest, code, out)
		}
		base, err := ReadSide(Live)
		return l.toward(highest, base, "--config", "/etc/"+server+".toml", "update"), err
	}
}

// updateWithout is an update by a delta bundle to a device on which a file that a
// patch is for has gone bad, on both sides: that file has to come whole.
func updateWithout(l *Lab, now Tree) (task, error) {
	t, err := update("delta")(l, now)
	if err != nil {
		return t, err
	}
	var patched []string
	for _, lib := range names(Live + "/apps/lib") {
		if name := "lib/" + lib; t.legal[0][name] != t.done[name] {
			patched = append(patched, name)
		}
	}
	if len(patched) == 0 {
		return t, errors.New("no library comes as a patch")
	}
	name := patched[l.Rand.IntN(len(patched))]
	data, err := os.ReadFile(filepath.Join(Live, "apps", name))
	if err != nil {
		return t, err
	}
	data[l.Rand.IntN(len(data))] ^= 1
	for _, side := range []string{Live, Backup} {
		if err := Replace(filepath.Join(side, "apps", name), data); err != nil {
			return t, err
		}
	}
	t.mends = true
	t.legal[0], err = ReadSide(Live)
	return t, err
}

// back is a rollback from a version to another one, as that was when it was left.
func back(from, to Tree) task {
	return task{args: []string{"rollback", "--to", to["tag"]}, legal: []Tree{from, to}, done: to, least: to["tag"]}
}

// editAndBackUp is an application that writes over its configuration, and a
// backup of that. What is kept of another version must not change with it.
func (l *Lab) editAndBackUp() (Tree, error) {
	edited, err := l.Edit(false)
	if err != nil {
		return nil, err
	}
	if code, out := Tandem("backup"); code != 0 {
		return nil, fmt.Errorf("back the edit up: exit code %d: %s", code, out)
	}
	return edited, nil
}

// Named are the operations of these names, in the order of Operations.
func Named(names ...string) []*Operation {
	return slices.DeleteFunc(slices.Clone(Operations), func(op *Operation) bool { return !slices.Contains(names, op.Name) })
}

// Matching are those that o asks for.
func (o Options) Matching() ([]*Operation, error) {
	if o.Run == nil {
		return Operations, nil
	}
	chosen := slices.DeleteFunc(slices.Clone(Operations), func(op *Operation) bool { return !o.Run.MatchString(op.Name) })
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no operation matches %s", o.Run)
	}
	return chosen, nil
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

// Updates are those that bring a release in parts or as a difference, and what they
// fall back to. It takes an application that is worth it.
func Updates() []*Operation {
	return Named("install a delta bundle", "update by ranges", "update by a delta bundle", "update by a delta bundle with a damaged base",
		"update from a server without ranges")
}
