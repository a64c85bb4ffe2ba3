package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// Where things lie on the disks of a device, one for each partition.
const (
	systemDir  = "usrapp/apprun"
	usrDataDir = "appbackup"
	stateDir   = "tandem"
)

// What a side holds, as docs/formats.md fixes it.
const (
	appsDir    = "apps"
	tagFile    = "app_ver.txt"
	recordFile = ".tandem/record"
	commitFile = ".tandem/commit.json"
	nextDir    = ".tandem/next"
	prevDir    = ".tandem/previous"
)

// strangers are files on the partitions that are none of Tandem's business.
var strangers = map[backup.SideName][]string{
	backup.System:  {"etc/passwd", "usrapp/apprun.txt", "usrapp/other/apps/file"},
	backup.UsrData: {"app_ver.txt", "photos/one", "appbackup.old/apps/file"},
}

// device is a machine with both partitions, and the real code on them.
type device struct {
	m    *memfs.Machine
	wrap func(fsys.FS) fsys.FS // what the code is given instead of its disks; nil is these
}

// newDevice makes a device with empty sides, as the agent leaves them when it
// has made their directories.
func newDevice(o memfs.Options) *device {
	d := &device{m: memfs.NewMachine()}
	d.m.Advance(123456789 * time.Nanosecond) // not a whole second
	// In order: what a power cut leaves of each is drawn in that order.
	dirs := map[backup.SideName][]string{backup.System: {systemDir}, backup.UsrData: {usrDataDir, stateDir}}
	for _, name := range sides {
		disk := d.m.NewDisk(string(name), o).FS()
		for _, dir := range dirs[name] {
			must(fsys.MkdirAll(disk, dir, 0o755))
		}
		for _, s := range strangers[name] {
			must(fsys.MkdirAll(disk, path.Dir(s), 0o755))
			must(fsys.WriteFile(disk, s, []byte("not ours: "+s), 0o600))
		}
	}
	d.sync()
	return d
}

// must ends the run on an error of the lab's own making.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func get[T any](v T, err error) T {
	must(err)
	return v
}

func (d *device) on(m *memfs.Machine) *device { return &device{m, d.wrap} }

func (d *device) disk(side backup.SideName) *memfs.Disk { return d.m.Disk(string(side)) }

// dir is where a side lies on its disk.
func dir(side backup.SideName) string {
	if side == backup.System {
		return systemDir
	}
	return usrDataDir
}

// fs is a side as the lab sees it.
func (d *device) fs(side backup.SideName) fsys.FS { return d.disk(side).Sub(dir(side)) }

// given is a file system as the code under test gets it.
func (d *device) given(fs fsys.FS) fsys.FS {
	if d.wrap == nil {
		return fs
	}
	return d.wrap(fs)
}

func (d *device) state() fsys.FS { return d.disk(backup.UsrData).Sub(stateDir) }

// sync makes all durable.
func (d *device) sync() {
	for _, side := range sides {
		must(d.disk(side).FS().Sync())
	}
}

var sides = []backup.SideName{backup.System, backup.UsrData}

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func (d *device) reconciler() *backup.Reconciler {
	boot, started := d.m.Boot()
	return &backup.Reconciler{
		System:  backup.NewSide(backup.System, d.given(d.fs(backup.System))),
		UsrData: backup.NewSide(backup.UsrData, d.given(d.fs(backup.UsrData))),
		Log:     quiet(),
		Now:     d.m.Now,
		Wait: func(ctx context.Context, by time.Duration) error {
			d.m.Advance(by)
			return ctx.Err()
		},
		Boot: boot, Started: started,
	}
}

// boot brings the sides in step, as at each start of the device.
func (d *device) boot() error {
	_, err := d.reconciler().Reconcile(context.Background(), backup.Options{})
	return err
}

// repair is tandem verify --repair.
func (d *device) repair() error {
	_, err := d.reconciler().Reconcile(context.Background(), backup.Options{Full: true})
	return err
}

// install installs the bundle of a version on system.
func (d *device) install(version string, o backup.InstallOptions) error {
	return d.installBundle(bundleOf(version), trust.Options{Time: d.m.Now(), AllowUnsigned: true}, o)
}

func (d *device) installBundle(data []byte, t trust.Options, o backup.InstallOptions) error {
	return d.installWith(&ota.Installer{}, reading(data), t, o)
}

// installWith installs a bundle by an installer that knows where to get more.
func (d *device) installWith(in *ota.Installer, open opener, t trust.Options, o backup.InstallOptions) error {
	in.Reconciler, in.Trust, in.App, in.Compatible, in.Log = d.reconciler(), t, "hello", []string{"model"}, quiet()
	owner := ota.Owner(0, 0, d.m.Now())
	o.Now, o.Owner = owner.Now, owner.Owner
	_, err := in.Install(context.Background(), open, o)
	return err
}

// installAndBackUp is tandem install.
func (d *device) installAndBackUp(version string, o backup.InstallOptions) error {
	o.Both = true
	if err := d.install(version, o); err != nil {
		return err
	}
	return d.boot()
}

// bootHolding is tandem boot where backup = "confirmed".
func (d *device) bootHolding() error {
	r := d.reconciler()
	p, err := r.Pending()
	if err != nil {
		return err
	}
	o := backup.Options{}
	if p != nil {
		o.Hold = p.Version
	}
	_, err = r.Reconcile(context.Background(), o)
	return err
}

// confirm is tandem confirm.
func (d *device) confirm() error {
	if err := d.reconciler().ClearPending(); err != nil {
		return err
	}
	return d.boot()
}

// rollback is tandem rollback; "" is to the version before.
func (d *device) rollback(to string) error {
	r := d.reconciler()
	var target versioning.Version
	if to != "" {
		target = parse(to)
	}
	if _, _, err := r.Rollback(context.Background(), target, func(versioning.Version, versioning.Version) {}); err != nil {
		return err
	}
	if err := d.boot(); err != nil {
		return err
	}
	return r.ClearPending()
}

// withdraw has a device leave 1.1.0, which its publisher recalled, and watch what
// comes back.
func (d *device) withdraw() error {
	r := d.reconciler()
	res, err := r.Look(context.Background(), backup.Options{})
	if err != nil {
		return err
	}
	agree := func(versioning.Version, versioning.Version) error { return nil }
	if _, _, err := r.Withdraw(context.Background(), backup.Withdrawal{Release: res.System.Release, Pending: true}, agree, agree); err != nil {
		return err
	}
	return d.boot()
}

func parse(version string) versioning.Version { return get(versioning.Parse(version)) }

// write makes or replaces a file of a side, as a person would.
func (d *device) write(side backup.SideName, name, content string) {
	fs := d.fs(side)
	must(fsys.MkdirAll(fs, path.Dir(name), 0o755))
	must(fsys.RemoveAll(fs, name))
	f := get(fs.Create(name, modeOf(strings.TrimPrefix(name, "apps/"))))
	_, err := io.WriteString(f, content)
	must(errors.Join(err, f.Close()))
}

// edit is an application that saves its configuration in place.
func (d *device) edit(name, content string) {
	d.m.Advance(5 * time.Second)
	must(d.disk(backup.System).Edit(path.Join(systemDir, appsDir, name), func([]byte) []byte { return []byte(content) }))
}

// damage changes a file under an unchanged size and time.
func (d *device) damage(side backup.SideName, name string) {
	must(d.disk(side).Damage(path.Join(dir(side), appsDir, name), func(b []byte) []byte {
		copy(b, damaged)
		return b
	}))
}

// damaged is how the content of a damaged file begins.
const damaged = "\x7fflip"

func (d *device) remove(side backup.SideName, names ...string) {
	for _, n := range names {
		must(fsys.RemoveAll(d.fs(side), n))
	}
}

// erase formats a partition and makes the directories of it anew. What is not
// ours on it is put back, so that it can be watched.
func (d *device) erase(side backup.SideName) {
	fs := d.disk(side).FS()
	names := []string{dir(side)}
	if side == backup.UsrData {
		names = append(names, stateDir)
	}
	for _, n := range names {
		must(fsys.RemoveAll(fs, n))
		must(fs.Mkdir(n, 0o755))
	}
	must(fs.Sync())
}

// lay puts a version on a side as a factory or a person would: files and tag,
// no record.
func (d *device) lay(side backup.SideName, version string) {
	d.remove(side, appsDir)
	for name, content := range release(version) {
		d.write(side, path.Join(appsDir, name), content)
	}
	d.write(side, tagFile, version+"\n")
}

// release gives the files of a version. Some are the same in all versions, some
// differ, some only one version has; those in etc are configuration.
func release(version string) map[string]string {
	if version == "1.0.1" { // 1.0.0 under a tag that was raised
		version = "1.0.0"
	}
	files := map[string]string{
		"bin/app":            "binary of " + version,
		"bin/helper":         "the same in all versions",
		"share/" + version:   "only in " + version,
		"share/deep/er/file": strings.Repeat("x", 5000),
		"etc/app.conf":       "default",
		"etc/both.conf":      "default of " + version,
	}
	if big, ok := strings.CutSuffix(version, "-big"); ok { // 40 blocks of its own
		files["bin/big"] = strings.Repeat(big+" ", 40*4096/(len(big)+1))
	}
	if program, ok := strings.CutSuffix(version, "-prog"); ok { // what patches are made for
		files["bin/prog"] = noise(0, 12<<10) + program + noise(1, 12<<10)
	}
	return files
}

// noise does not compress.
func noise(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

func modeOf(name string) uint32 {
	if strings.HasPrefix(name, "bin/") {
		return 0o755
	}
	return 0o644
}

func isConfig(name string) bool { return strings.HasPrefix(name, "etc/") }

var bundles sync.Map // version → bundle

// bundleOf makes the bundle of a version, not signed.
func bundleOf(version string) []byte {
	if b, ok := bundles.Load(version); ok {
		return b.([]byte)
	}
	data := makeBundle(version, bundle.Signing{})
	bundles.Store(version, data)
	return data
}

func makeBundle(version string, s bundle.Signing) []byte {
	m := memfs.NewMachine()
	disk := m.NewDisk("build", memfs.Options{})
	fs := disk.FS()
	for name, content := range release(version) {
		name = path.Join("tree", name)
		must(fsys.MkdirAll(fs, path.Dir(name), 0o755))
		must(fsys.WriteFile(fs, name, []byte(content), modeOf(strings.TrimPrefix(name, "tree/"))))
	}
	_, err := bundle.Create(context.Background(), disk.Sub("tree"), fs, "bundle", bundle.Options{
		App: "hello", Version: parse(version), Compatible: []string{"model"},
		Config: []string{"etc/*.conf"}, Ignore: []string{"log/**"}, Frame: 4096, Signing: s,
	})
	must(err)
	return get(fsys.ReadFile(fs, "bundle", 1<<24))
}

// walk lists all below a directory of a file system: directories, files with
// their attributes and content, links. Directories of the names in but are left out.
func walk(fs fsys.FS, root string, visit func(name string, i fsys.Info, content string), but ...string) {
	infos, err := fs.ReadDir(root)
	if fsys.IsNotExist(err) {
		return
	}
	must(err)
	for _, i := range infos {
		name := path.Join(root, i.Name)
		if slices.Contains(but, name) {
			continue
		}
		content := ""
		switch i.Type {
		case fsys.TypeFile:
			content = string(get(fsys.ReadFile(fs, name, 1<<24)))
		case fsys.TypeSymlink:
			content = get(fs.Readlink(name))
		}
		visit(name, i, content)
		if i.Type == fsys.TypeDir {
			walk(fs, name, visit, but...)
		}
	}
}

// read gives the content of a file of a side, and whether there is one.
func (d *device) read(side backup.SideName, name string) (string, bool) {
	data, err := fsys.ReadFile(d.fs(side), name, 1<<24)
	return string(data), err == nil
}

// record reads the record of a side. The error wraps fs.ErrNotExist if it has none.
func (d *device) record(side backup.SideName) (*record.Record, error) {
	r, _, err := record.Load(d.fs(side), recordFile, nil)
	if r == nil && err == nil {
		err = fs.ErrNotExist
	}
	return r, err
}

func (d *device) tag(side backup.SideName) string {
	v, err := versioning.ReadTag(d.fs(side), tagFile)
	if err != nil {
		return ""
	}
	return v.String()
}

// wrong compares a tree with the release of a version, configuration apart,
// and gives what is wrong by file. Names that only other versions have do not
// belong there.
func (d *device) wrong(side backup.SideName, root, version string) map[string]string {
	want := release(version)
	bad := map[string]string{}
	for name, content := range want {
		if isConfig(name) {
			continue
		}
		i, err := d.fs(side).Lstat(path.Join(root, name))
		got, ok := d.read(side, path.Join(root, name))
		switch {
		case err != nil || !ok:
			bad[name] = "missing"
		case got != content:
			bad[name] = fmt.Sprintf("has %.40q, expected %.40q", got, content)
		case i.Mode != modeOf(name):
			bad[name] = fmt.Sprintf("has mode %04o, expected %04o", i.Mode, modeOf(name))
		}
	}
	if infos, err := d.fs(side).ReadDir(path.Join(root, "share")); err == nil {
		for _, i := range infos {
			if name := "share/" + i.Name; i.Type == fsys.TypeFile && want[name] == "" && !d.isCaptured(side, name) {
				bad[name] = "does not belong to " + version
			}
		}
	}
	return bad
}

// isCaptured reports whether the record of a side takes a file for configuration,
// as it does with what a person added by hand.
func (d *device) isCaptured(side backup.SideName, name string) bool {
	rec, err := d.record(side)
	return err == nil && slices.ContainsFunc(rec.Config, func(e *manifest.Entry) bool { return string(e.Path) == name })
}

// facts are what a device holds once what was interrupted is finished or
// undone, each side for itself.
type facts struct {
	sides   map[backup.SideName]*sideFacts
	revoked []string
}

type sideFacts struct {
	version  string
	bad      map[string]string // application files that are not as released
	files    map[string]string // content by path
	revision int
	previous string // the version kept for a rollback, if it is whole
}

// root is where the application lies on a side: in apps, or deeper where the
// vendor's script nested it.
func (d *device) root(side backup.SideName) string {
	root := appsDir
	for {
		infos, err := d.fs(side).ReadDir(root)
		if err != nil || len(infos) != 1 || infos[0].Name != appsDir {
			return root
		}
		root = path.Join(root, appsDir)
	}
}

// complete reports whether the side holds its version as it was released.
func (s *sideFacts) complete() bool { return s.version != "" && len(s.bad) == 0 }

// look finishes what was interrupted on a copy of the device, and looks.
func (d *device) look() (*facts, error) {
	c := &device{m: d.m.Clone()}
	r := c.reconciler()
	if _, err := r.Recover(); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	f := &facts{sides: map[backup.SideName]*sideFacts{}}
	for _, side := range sides {
		s := &sideFacts{version: c.tag(side), files: map[string]string{}}
		root := c.root(side)
		if s.version != "" {
			s.bad = c.wrong(side, root, s.version)
		}
		walk(c.fs(side), root, func(name string, i fsys.Info, content string) {
			if i.Type != fsys.TypeDir {
				s.files[strings.TrimPrefix(name, root+"/")] = content
			}
		})
		if rec, err := c.record(side); err == nil && rec.Manifest.Version.String() == s.version {
			s.revision = rec.Revision
		}
		s.previous = c.keeps(side)
		f.sides[side] = s
	}
	bad, err := r.Revoked()
	for _, v := range bad {
		f.revoked = append(f.revoked, v.String())
	}
	return f, err
}

// keeps returns the version that a side can return to: each of its application
// files is in place somewhere, or kept by its digest.
func (d *device) keeps(side backup.SideName) string {
	v, err := versioning.ReadTag(d.fs(side), path.Join(prevDir, tagFile))
	if err != nil {
		return ""
	}
	have := map[string]bool{}
	for _, s := range sides {
		for _, root := range []string{appsDir, path.Join(prevDir, "files")} {
			walk(d.fs(s), root, func(_ string, _ fsys.Info, content string) { have[content] = true })
		}
	}
	for name, content := range release(v.String()) {
		if !isConfig(name) && !have[content] {
			return ""
		}
	}
	return v.String()
}

// mendable reports whether the version of a side can be had whole.
func (f *facts) mendable(side backup.SideName) bool {
	s, other := f.sides[side], f.sides[side.Other()]
	if s.version == "" {
		return false
	}
	want := release(s.version)
	elsewhere := slices.Collect(maps.Values(other.files))
	for name := range s.bad {
		if want[name] != "" && !slices.Contains(elsewhere, want[name]) {
			return false
		}
	}
	return true
}

// best is the version that promise P2 gives the device: the highest that either
// side holds or can be mended, revoked ones last; where all are revoked, one
// that is kept for a rollback goes before them. "" is none.
func (f *facts) best() string {
	good := func(v string) bool { return !slices.Contains(f.revoked, v) }
	var held, kept []string
	for side, s := range f.sides {
		if f.mendable(side) {
			held = append(held, s.version)
		}
		if s.previous != "" {
			kept = append(kept, s.previous)
		}
	}
	if len(held) == 0 {
		return ""
	}
	for _, list := range [][]string{slices.DeleteFunc(slices.Clone(held), func(v string) bool { return !good(v) }), slices.DeleteFunc(kept, func(v string) bool { return !good(v) })} {
		if len(list) > 0 {
			return highest(list)
		}
	}
	return highest(held)
}

func highest(list []string) string {
	return slices.MaxFunc(list, func(a, b string) int { return parse(a).Compare(parse(b)) })
}

// copyTree copies what lies below one file system into another.
func copyTree(from, to fsys.FS) {
	walk(from, ".", func(name string, i fsys.Info, content string) {
		switch i.Type {
		case fsys.TypeDir:
			must(to.Mkdir(name, i.Mode))
		case fsys.TypeFile:
			f := get(to.Create(name, i.Mode))
			_, err := io.WriteString(f, content)
			must(errors.Join(err, f.SetAttr(attrOf(i, i.Mode)), f.Close()))
		}
	})
}

func attrOf(i fsys.Info, mode uint32) fsys.Attr {
	return fsys.Attr{Mode: mode, UID: i.UID, GID: i.GID, Mtime: i.Mtime}
}
