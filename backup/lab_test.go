package backup

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup/change"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// lab is a device in memory with two sides.
type lab struct {
	t testing.TB
	m *memfs.Machine
}

func newLab(t testing.TB, o memfs.Options) *lab {
	m := memfs.NewMachine()
	m.Advance(123456789 * time.Nanosecond) // not a whole second
	m.NewDisk("system", o)
	m.NewDisk("usr_data", o)
	return &lab{t, m}
}

func (l *lab) clone() *lab { return &lab{l.t, l.m.Clone()} }

func (l *lab) fs(side SideName) fsys.FS { return l.m.Disk(string(side)).FS() }

func (l *lab) reconciler() *Reconciler {
	log := logrus.New()
	log.SetOutput(io.Discard)
	boot, started := l.m.Boot()
	return &Reconciler{
		System:  &Side{Name: System, FS: l.fs(System)},
		UsrData: &Side{Name: UsrData, FS: l.fs(UsrData)},
		Log:     log,
		Now:     l.m.Now,
		Wait: func(ctx context.Context, d time.Duration) error {
			l.m.Advance(d)
			return ctx.Err()
		},
		Boot: boot, Started: started,
	}
}

func (l *lab) boot() (*Result, error) {
	return l.reconciler().Reconcile(context.Background(), Options{})
}

func (l *lab) mustBoot() *Result {
	l.t.Helper()
	res, err := l.boot()
	if err != nil {
		l.t.Fatalf("boot: %v", err)
	}
	return res
}

// must fails the test on an error of the test's own making.
func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// write makes or overwrites a file as a program would: in place, not synced.
func (l *lab) write(side SideName, name, content string) {
	l.t.Helper()
	fs := l.fs(side)
	l.must(fsys.MkdirAll(fs, path.Dir(name), 0o755))
	if _, err := fs.Lstat(name); err == nil {
		l.must(fs.Remove(name))
	}
	f, err := fs.Create(name, 0o644)
	l.must(err)
	_, err = io.WriteString(f, content)
	l.must(err)
	l.must(f.Close())
}

func (l *lab) remove(side SideName, names ...string) {
	l.t.Helper()
	for _, n := range names {
		l.must(fsys.RemoveAll(l.fs(side), n))
	}
}

func (l *lab) erase(side SideName) {
	l.t.Helper()
	entries, err := l.fs(side).ReadDir(".")
	l.must(err)
	for _, e := range entries {
		l.remove(side, e.Name)
	}
}

// release lays a version of the application on a side as a factory or a
// person would: files and tag, no record.
func (l *lab) release(side SideName, version string) {
	l.t.Helper()
	for name, content := range releaseFiles(version) {
		l.write(side, path.Join("apps", name), content)
	}
	l.write(side, "app_ver.txt", version+"\n")
	l.must(l.fs(side).Sync())
}

// releaseFiles has files that are the same in all versions, that differ, and
// that only one version has.
func releaseFiles(version string) map[string]string {
	return map[string]string{
		"bin/app":            "binary of " + version,
		"bin/helper":         "the same in all versions",
		"share/" + version:   "only in " + version,
		"share/deep/er/file": strings.Repeat("x", 5000),
		"etc/app.conf":       "default",
	}
}

// files reads a whole tree: path → kind and content.
func (l *lab) files(side SideName, root string) map[string]string {
	l.t.Helper()
	got := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		infos, err := l.fs(side).ReadDir(dir)
		if fsys.IsNotExist(err) {
			return
		}
		l.must(err)
		for _, i := range infos {
			name := path.Join(dir, i.Name)
			key := strings.TrimPrefix(name, root+"/")
			switch i.Type {
			case fsys.TypeDir:
				got[key+"/"] = fmt.Sprintf("%04o", i.Mode)
				walk(name)
			case fsys.TypeSymlink:
				target, err := l.fs(side).Readlink(name)
				l.must(err)
				got[key] = "-> " + target
			case fsys.TypeFile:
				data, err := fsys.ReadFile(l.fs(side), name, 1<<20)
				if err != nil {
					got[key] = "unreadable"
					continue
				}
				mtime := i.Mtime
				if strings.HasPrefix(key, "etc/") {
					mtime = 0 // configuration that was only rewritten is not captured again
				}
				got[key] = fmt.Sprintf("%04o %d %s", i.Mode, mtime, data)
			default:
				got[key] = string(i.Type)
			}
		}
	}
	walk(root)
	return got
}

func (l *lab) tag(side SideName) string {
	v, err := versioning.ReadTag(l.fs(side), change.TagFile)
	if err != nil {
		return ""
	}
	return v.String()
}

func (l *lab) read(side SideName, name string) string {
	data, err := fsys.ReadFile(l.fs(side), name, 1<<20)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

// inStep checks P2: both sides have the same files, tag and record, and
// nothing is left of the work.
func (l *lab) inStep(version string) error {
	for _, side := range []SideName{System, UsrData} {
		if got := l.tag(side); got != version {
			return fmt.Errorf("%s has tag %q, want %q", side, got, version)
		}
		for _, left := range []string{change.CommitFile, ".tandem/next"} {
			if _, err := l.fs(side).Lstat(left); !fsys.IsNotExist(err) {
				return fmt.Errorf("%s: %s is still there (%v)", side, left, err)
			}
		}
	}
	a, b := l.files(System, change.AppsDir), l.files(UsrData, change.AppsDir)
	if !maps.Equal(a, b) {
		return fmt.Errorf("the sides differ in %v", difference(a, b))
	}
	if ra, rb := l.read(System, change.RecordFile), l.read(UsrData, change.RecordFile); ra != rb {
		return fmt.Errorf("the records differ:\n%s\n%s", ra, rb)
	}
	return nil
}

func (l *lab) wantInStep(version string) {
	l.t.Helper()
	if err := l.inStep(version); err != nil {
		l.t.Fatal(err)
	}
}

// holdsRelease reports whether a directory of a side holds exactly the files of
// version, configuration apart.
func (l *lab) holdsRelease(side SideName, root, version string) error {
	want := releaseFiles(version)
	for name, content := range want {
		if got := l.read(side, path.Join(root, name)); got != content && !strings.HasPrefix(name, "etc/") {
			return fmt.Errorf("%s: %s has %.40q, want %.40q", side, name, got, content)
		}
	}
	for name := range l.files(side, root) {
		if _, ok := want[name]; !ok && !strings.HasSuffix(name, "/") && !strings.HasPrefix(name, "etc/") {
			return fmt.Errorf("%s: %s does not belong to %s", side, name, version)
		}
	}
	return nil
}

// difference lists the paths at which two trees differ.
func difference(a, b map[string]string) []string {
	var paths []string
	for p, v := range a {
		if b[p] != v {
			paths = append(paths, fmt.Sprintf("%s: %.60q, %.60q", p, v, b[p]))
		}
	}
	for p, v := range b {
		if _, ok := a[p]; !ok {
			paths = append(paths, fmt.Sprintf("%s: missing, %.60q", p, v))
		}
	}
	slices.Sort(paths)
	return paths
}

// running reconciles while the application runs.
func (l *lab) running(r *Reconciler) *Result {
	l.t.Helper()
	res, err := r.Reconcile(context.Background(), Options{})
	if err != nil {
		l.t.Fatalf("backup: %v", err)
	}
	return res
}

func (l *lab) bothHave(want string) {
	l.t.Helper()
	for _, side := range []SideName{System, UsrData} {
		if got, err := fsys.ReadFile(l.fs(side), conf, 100); err != nil || string(got) != want {
			l.t.Errorf("%s has %q, %v; want %q", side, got, err, want)
		}
	}
}

// keeps reports as an error what a side lacks to return to a version.
func (l *lab) keeps(side SideName, version string) error {
	if got := l.read(side, ".tandem/previous/app_ver.txt"); got != version+"\n" {
		return fmt.Errorf("%s keeps %q", side, got)
	}
	for name, content := range releaseFiles(version) {
		kept := change.Kept(change.PreviousDir, digest.Of([]byte(content)).String())
		if l.read(side, kept) != content && l.read(side, path.Join(change.AppsDir, name)) != content {
			return fmt.Errorf("%s: %s is not kept", side, name)
		}
	}
	return nil
}
