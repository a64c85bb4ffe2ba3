package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed vendor.sh
var vendorScript string

// state is what lies on a side.
type state struct {
	tree    string // name of a saved tree; "" for none
	version int
}

// sides is what lies on both sides.
type sides struct{ system, usrData state }

// program is one way to do a job.
type program struct {
	name    string
	argv    []string
	stdin   string
	record  string // the saved records that lie on the sides before; "" for none
	tandem  bool
	anyTime bool   // it gives all files the time of the release, changed or not
	slot    *slot  // it fills this one, and leaves the sides alone
	clock   bool   // it prints when the work begins and when it ends, in nanoseconds
	trial   bool   // where it fails it is left out, and the reason is given
	missing string // why it is not measured
}

// job is measured for each of its programs, from the same state.
type job struct {
	name          string
	before, after sides
	programs      []*program
}

// lab is a device on the bench, with the trees that its sides are set to.
type lab struct {
	tmp             string
	spec            treeSpec
	devices         []*device
	counted         bool   // the devices count what is written to them
	system, usrData string // paths of the sides
	tandem, release string // the built programs
	missing         []string
	slot            *slot  // nil without RAUC
	raucWhy         string // why it is not measured, though it is installed
	payload         int64  // of the release's bundle, in bytes
}

// The saved trees: as shipped, the next release, and with edited configuration.
const (
	shipped = "shipped"
	next    = "next"
	edited  = "edited"
)

// The saved records: as the release's bundle brings them, and as tandem makes
// them when it finds an application that it knows nothing of.
const (
	installed = "installed"
	adopted   = "adopted"
	kept      = "kept" // as installed, until system was erased
)

func (l *lab) saved(parts ...string) string {
	return filepath.Join(append([]string{l.tmp, "saved"}, parts...)...)
}

// prepare writes the trees, the configuration and the records.
func (l *lab) prepare(ctx context.Context) error {
	l.system, l.usrData = filepath.Join(l.devices[0].dir, "apprun"), filepath.Join(l.devices[1].dir, "appbackup")
	trees := map[string]map[int]bool{shipped: nil}
	if !l.spec.installOnly && !l.spec.many {
		trees[next], trees[edited] = l.spec.onePercent(false), l.spec.onePercent(true)
	}
	for n, changed := range trees {
		if err := l.spec.write(l.saved(n), changed); err != nil {
			return err
		}
	}
	mount := ""
	if l.counted {
		mount = l.devices[1].dir
	}
	root, err := l.makeKeys(ctx)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`[device]
id = "bench"
compatible = ["bench"]
app = "bench"
[system]
path = %q
[usr_data]
path = %q
mount = %q
[trust]
root = %q
[agent]
state = %q
lock = %q
`, l.system, l.usrData, mount, root, filepath.Join(l.devices[1].dir, "tandem"), filepath.Join(l.tmp, "lock"))
	if err := errors.Join(
		os.WriteFile(l.config(), []byte(config), 0o600),
		os.WriteFile(l.held(), []byte(config+waiting), 0o600)); err != nil {
		return err
	}
	if err := os.WriteFile(l.vendor(), []byte(vendorScript), 0o600); err != nil {
		return err
	}
	if l.spec.many {
		return nil
	}
	if err := l.makeBundle(ctx, state{shipped, 1}, released); err != nil {
		return err
	}
	if l.spec.installOnly {
		return nil
	}
	if err := errors.Join(
		l.makeBundle(ctx, state{next, 2}, later), l.makeDelta(ctx),
		l.keepRecord(ctx, adopted, sides{system: state{shipped, 1}}, l.own("tandem", "backup"))); err != nil {
		return err
	}
	return l.keepRecord(ctx, installed, sides{}, l.own("tandem", "install", l.bundle(shipped)))
}

func (l *lab) config() string { return filepath.Join(l.tmp, "tandem.toml") }
func (l *lab) vendor() string { return filepath.Join(l.tmp, "vendor.sh") }

// keepRecord saves what tandem keeps of itself after p has run.
func (l *lab) keepRecord(ctx context.Context, name string, from sides, p *program) error {
	if err := l.reset(from, ""); err != nil {
		return err
	}
	if err := command(ctx, nil, p.argv...); err != nil {
		return err
	}
	for i, side := range []string{l.system, l.usrData} {
		if err := errors.Join(
			l.check(side, state{shipped, 1}, false),
			mirror(filepath.Join(side, ".tandem"), l.saved(name, l.sideName(i)))); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// command runs a program that is not measured.
func command(ctx context.Context, env []string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (l *lab) sideName(i int) string { return filepath.Base(l.devices[i].dir) }

// before puts both sides into the state before a job. A device that has records has
// been started with them, and so knows its own files, before anything was changed.
func (l *lab) before(ctx context.Context, j job, p *program) error {
	record := p.record
	switch record {
	case kept:
		record = installed
	case installed, adopted:
	default:
		return l.reset(j.before, record)
	}
	old := state{shipped, 1}
	if err := l.reset(sides{old, old}, record); err != nil {
		return err
	}
	if err := command(ctx, nil, l.own("tandem", "boot").argv...); err != nil {
		return err
	}
	if p.record == kept {
		if err := os.RemoveAll(filepath.Join(l.system, ".tandem")); err != nil {
			return err
		}
	}
	return l.lay(j.before)
}

// reset puts both sides into the state before a job, with nothing left of the run before.
func (l *lab) reset(before sides, record string) error {
	for i, s := range []struct {
		dir string
		state
	}{{l.system, before.system}, {l.usrData, before.usrData}} {
		entries, err := os.ReadDir(l.devices[i].dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() != "lost+found" && e.Name() != filepath.Base(s.dir) {
				err = errors.Join(err, os.RemoveAll(filepath.Join(l.devices[i].dir, e.Name())))
			}
		}
		if err := errors.Join(err, os.MkdirAll(s.dir, 0o755)); err != nil {
			return err
		}
		from := l.saved("nothing")
		if record != "" {
			from = l.saved(record, l.sideName(i))
		}
		if err := mirror(from, filepath.Join(s.dir, ".tandem")); err != nil {
			return err
		}
	}
	return l.lay(before)
}

// lay makes trees and tags of both sides what they are before a job.
func (l *lab) lay(before sides) error {
	for _, s := range []struct {
		dir string
		state
	}{{l.system, before.system}, {l.usrData, before.usrData}} {
		tagFile := filepath.Join(s.dir, "app_ver.txt")
		err := os.RemoveAll(tagFile)
		if s.tree == "" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, "apps")))
		} else {
			err = errors.Join(err,
				mirror(l.saved(s.tree), filepath.Join(s.dir, "apps")),
				os.WriteFile(tagFile, []byte(fmt.Sprintln(s.version)), 0o644),
				// rsync tells versions apart by size and whole seconds.
				os.Chtimes(tagFile, time.Time{}, time.Unix(int64(released+s.version), 0)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check says where a side does not hold exactly the tree and the tag of s.
func (l *lab) check(side string, s state, anyTime bool) error {
	if s.tree == "" {
		_, err := os.Lstat(filepath.Join(side, "apps"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s: expected no application", side))
	}
	if err := same(l.saved(s.tree), filepath.Join(side, "apps"), anyTime); err != nil {
		return err
	}
	path := filepath.Join(side, "app_ver.txt")
	got, err := os.ReadFile(path)
	if err == nil && string(got) != fmt.Sprintln(s.version) {
		err = fmt.Errorf("%s: holds %q, expected %q", path, got, fmt.Sprintln(s.version))
	}
	return err
}

// own gives a command of the built tandem.
func (l *lab) own(name string, args ...string) *program {
	return &program{name: name, argv: append([]string{l.tandem, "--config", l.config()}, args...), tandem: true}
}

// with gives p for a device that has the records already.
func (p *program) with(record string) *program {
	p.record = record
	return p
}

// peer gives a program that needs tools. Where one is missing it stays in the
// tables under that name.
func (l *lab) peer(name string, tools []string, argv ...string) *program {
	p := &program{name: name, argv: argv}
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			l.leaveOut(p, t+" is not installed")
		}
	}
	return p
}

// leaveOut gives the reason why p is not measured.
func (l *lab) leaveOut(p *program, why string) {
	p.missing = why
	if !slices.Contains(l.missing, why) {
		l.missing = append(l.missing, why)
	}
}

// shell gives a peer that is a line of shell; $1 is the live side, $2 the backup.
func (l *lab) shell(name string, tools []string, line string) *program {
	line = `flush() { sync -f "$1" 2>/dev/null || sync; }; ` + line
	return l.peer(name, append(tools, "sh"), "sh", "-c", line, "sh", l.system, l.usrData)
}

// jobs gives what is measured. The first program of each is the one that the
// others are compared with.
func (l *lab) jobs() ([]job, error) {
	if l.spec.installOnly {
		return l.installs(), nil
	}
	const both = `"$1/apps" "$1/app_ver.txt" "$2/" && flush "$2"`
	cp := l.shell("cp -a + sync", []string{"cp"}, `cp -a `+both)
	fresh := l.shell("rm -rf + cp -a + sync", []string{"rm", "cp"}, `rm -rf "$2/apps" "$2/app_ver.txt" && cp -a `+both)
	rsync := l.shell("rsync -a + sync", []string{"rsync"}, `rsync -a `+both)
	vendor := []*program{l.peer("vendor's logic, busybox sh", []string{"busybox"}, "busybox", "sh", l.vendor(), l.system, l.usrData)}
	if vendor[0].missing != "" {
		vendor = append(vendor, l.peer("vendor's logic, sh", []string{"sh"}, "sh", l.vendor(), l.system, l.usrData))
	}
	find := func(name string, sides ...string) *program {
		argv := []string{"find"}
		for _, s := range sides {
			argv = append(argv, filepath.Join(s, "apps"))
		}
		return l.peer(name, []string{"find"}, append(argv, "-ls")...)
	}
	openssl := l.peer("openssl dgst -sha256", []string{"openssl", "xargs"}, "xargs", "-0", "openssl", "dgst", "-sha256")
	openssl.stdin = filepath.Join(l.tmp, "files")
	var files strings.Builder
	for _, side := range []string{l.system, l.usrData} {
		for i := range l.spec.Files {
			files.WriteString(filepath.Join(side, "apps", name(i)) + "\x00")
		}
	}
	if err := os.WriteFile(openssl.stdin, []byte(files.String()), 0o600); err != nil {
		return nil, err
	}
	old, none := state{shipped, 1}, state{}
	return append([]job{
		{"first backup", sides{old, none}, sides{old, old}, slices.Concat(
			[]*program{l.own("tandem backup", "backup"), cp, rsync}, vendor)},
		{"1 % changed, new tag", sides{state{next, 2}, old}, sides{state{next, 2}, state{next, 2}}, slices.Concat(
			[]*program{
				l.own("tandem backup", "backup").with(installed),
				l.own("tandem backup, adopted", "backup").with(adopted),
				cp, fresh, rsync,
			}, vendor)},
		{"1 % configuration, same tag", sides{state{edited, 1}, old}, sides{state{edited, 1}, state{edited, 1}}, []*program{
			l.own("tandem backup", "backup").with(installed),
			l.own("tandem backup, adopted", "backup").with(adopted),
			rsync,
		}},
		{"restore of an erased side", sides{none, old}, sides{old, old}, []*program{
			l.own("tandem boot", "boot").with(kept),
			l.shell("cp -a + sync", []string{"cp"}, `cp -a "$2/apps" "$2/app_ver.txt" "$1/" && flush "$1"`),
		}},
		{"boot, nothing to do", sides{old, old}, sides{old, old}, slices.Concat(
			[]*program{
				l.own("tandem boot", "boot").with(installed),
				find("find -ls, one side", l.system), find("find -ls, both sides", l.system, l.usrData),
			}, vendor)},
		{"full verification", sides{old, old}, sides{old, old}, []*program{l.own("tandem verify", "verify").with(installed), openssl}},
	}, append(l.installs(), l.updates()...)...), nil
}

// many measures what Tandem does with very many files, each job once and after the
// one before. Those that are not wanted are done all the same.
func (l *lab) many(ctx context.Context, wanted func(string) bool) ([]figure, error) {
	old := state{shipped, 1}
	if err := l.reset(sides{old, state{}}, ""); err != nil {
		return nil, err
	}
	var all []figure
	for _, j := range []job{
		{name: "first backup", programs: []*program{l.own("tandem backup", "backup")}},
		{name: "boot, nothing to do", programs: []*program{l.own("tandem boot", "boot")}},
		{name: "full verification", programs: []*program{l.own("tandem verify", "verify")}},
		{name: "new tag, bumped", programs: []*program{l.own("tandem bump patch", "bump", "patch")}},
	} {
		s, err := l.measure(ctx, j.programs[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.name, err)
		}
		if wanted(j.name) {
			all = append(all, figures(j, [][]sample{{s}})...)
		}
	}
	return all, errors.Join(same(l.saved(shipped), filepath.Join(l.system, "apps"), false), same(l.saved(shipped), filepath.Join(l.usrData, "apps"), false))
}

// run measures a job n times, its programs in turn, so that what disturbs the
// machine meets all of them. A first turn, which is not counted, warms the caches.
func (l *lab) run(ctx context.Context, j job, n int) ([][]sample, error) {
	samples := make([][]sample, len(j.programs))
	for turn := range n + 1 {
		for i, p := range j.programs {
			if p.missing != "" {
				continue
			}
			if err := l.before(ctx, j, p); err != nil {
				return nil, fmt.Errorf("prepare %s: %w", j.name, err)
			}
			s, err := l.measure(ctx, p)
			if err != nil && p.trial && turn == 0 && ctx.Err() == nil {
				l.leaveOut(p, oneLine(err))
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", j.name, err)
			}
			if err := l.checkRun(ctx, j, p); err != nil {
				return nil, fmt.Errorf("%s: %s: wrong result: %w", j.name, p.name, err)
			}
			if turn > 0 {
				samples[i] = append(samples[i], s)
			}
		}
	}
	return samples, nil
}

// checkRun says where a program did not leave what it should have.
func (l *lab) checkRun(ctx context.Context, j job, p *program) error {
	left := j.after
	if p.slot != nil {
		if err := p.slot.check(ctx, l.saved(j.after.system.tree)); err != nil {
			return err
		}
		left = j.before
	}
	return errors.Join(l.check(l.system, left.system, p.anyTime), l.check(l.usrData, left.usrData, p.anyTime))
}

// checkVerify makes sure that a full verification reads what it vouches for.
func (l *lab) checkVerify(ctx context.Context) error {
	old := state{shipped, 1}
	if err := l.reset(sides{old, old}, installed); err != nil {
		return err
	}
	for _, side := range []string{l.system, l.usrData} {
		path := filepath.Join(side, "apps", name(0))
		if err := flip(path); err != nil {
			return err
		}
		p := l.own("tandem verify", "verify")
		err := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 11 {
			return fmt.Errorf("tandem verify: expected exit 11 for a flipped byte in %s, got %v", path, err)
		}
		if err := flip(path); err != nil {
			return err
		}
	}
	return nil
}
