package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

var beside = flag.Int("lab.beside", 40, "how many jobs are done beside programs and people, one seed each")

// TestBeside does one job beside others that work between any two operations of
// it: an application that owns data and the configuration in etc, a program that
// attacks from the directory that it owns, a person. Then all is quiet and the
// device boots. What they did on purpose stands, nothing of anybody else has
// changed, the job ends, and both sides are in step.
func TestBeside(t *testing.T) {
	if *replay != "" || *only != "" {
		t.Skip("a scenario was asked for")
	}
	n := *beside
	if *full && n == 40 {
		n = 2000
	}
	for _, kind := range besideKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			var worst *besides // of those that failed the one with the least to read
			failed := 0
			for s := *seed; s < *seed+uint64(n); s++ {
				b := newBeside(kind, s)
				if b.err = b.run(); b.err == nil {
					continue
				}
				if failed++; worst == nil || len(b.did) < len(worst.did) {
					worst = b
				}
			}
			if worst != nil {
				t.Fatalf("%d of %d jobs, the shortest with seed %d (go test ./test/model -run 'TestBeside/%s$' -lab.seed=%d -lab.beside=1): %v\n%s",
					failed, n, worst.seed, strings.ReplaceAll(kind.name, " ", "_"), worst.seed, worst.err, strings.Join(worst.did, "\n"))
			}
		})
	}
}

// besideKind is who works beside a job.
type besideKind struct {
	name string
	acts []func(*besides) // of whom
	cut  bool             // the power is cut now and then
}

var besideKinds = []besideKind{
	{"an application", []func(*besides){(*besides).application}, false},
	{"an application and power cuts", []func(*besides){(*besides).application}, true},
	{"a database", []func(*besides){(*besides).database}, false},
	{"a database and power cuts", []func(*besides){(*besides).database}, true},
	{"an attacker", []func(*besides){(*besides).attacker}, false},
	{"an attacker and power cuts", []func(*besides){(*besides).attacker}, true},
	{"a person", []func(*besides){(*besides).person}, false},
	{"all of them", []func(*besides){(*besides).application, (*besides).database, (*besides).attacker, (*besides).person}, false},
	{"all of them and power cuts", []func(*besides){(*besides).application, (*besides).database, (*besides).attacker, (*besides).person}, true},
}

// besides is a device on which others work beside one job.
type besides struct {
	*device
	kind     besideKind
	seed     uint64
	rng      *rand.Rand
	did      []string
	working  bool              // a job runs
	chance   int               // of an act before an operation: one in that many
	op       string            // that comes next
	exchange bool              // the file system can exchange
	alone    bool              // system is all there is
	returns  bool              // configuration comes back as it was in the version before
	meddled  bool              // a person changed files of the application
	fell     bool              // the version that ran could not be mended: the backup came back, and what was there lies aside or beside it
	version  []string          // what the device may have in the end
	outsides map[string]string // what is nobody's of these
	err      error             // what was found wrong meanwhile

	// What the application left, by path below apps: content, or missing. more is
	// what may be there instead, since the power was cut.
	own  map[string]string
	more map[string][]string
	had  map[string][]string // what was there since the last look
	// What the person wrote over the application's files, and where.
	edits []string

	db        dbState
	committed int // of the database, when the last job began
}

// The job that was begun is one of these.
var besideJobs = []struct {
	name    string
	prepare func(*besides)
	do      func(*besides) error
	goal    string
}{
	{"boot", func(*besides) {}, func(b *besides) error { return b.device.boot() }, "1.0.0"},
	{"repair", func(*besides) {}, func(b *besides) error { return b.repair() }, "1.0.0"},
	{"boot, usr_data lost", func(b *besides) { b.erase(backup.UsrData) }, func(b *besides) error { return b.boot() }, "1.0.0"},
	{"repair of system", func(b *besides) { b.damage(backup.System, "bin/app") }, func(b *besides) error { return b.repair() }, "1.0.0"},
	{"repair of usr_data", func(b *besides) { b.damage(backup.UsrData, "share/deep/er/file") }, func(b *besides) error { return b.repair() }, "1.0.0"},
	{"install", func(*besides) {}, func(b *besides) error { return b.installAndBackUp("1.1.0", backup.InstallOptions{AllowRevoked: true}) }, "1.1.0"},
	{"rollback", func(b *besides) { must(b.installAndBackUp("1.1.0", backup.InstallOptions{AllowRevoked: true})) }, func(b *besides) error { return b.rollback("") }, "1.0.0"},
	{"shutdown", func(*besides) {}, func(b *besides) error {
		_, err := b.reconciler().Reconcile(context.Background(), backup.Options{Shutdown: true})
		return err
	}, "1.0.0"},
}

func newBeside(kind besideKind, seed uint64) *besides {
	rng := rand.New(rand.NewPCG(seed, uint64(len(kind.name))))
	o := memfs.Options{NoExchange: rng.IntN(3) == 0, NoSyncReports: rng.IntN(3) == 0, SyncCheap: rng.IntN(2) == 0}
	b := &besides{device: newDevice(o), kind: kind, seed: seed, rng: rng, exchange: !o.NoExchange, own: map[string]string{}, more: map[string][]string{}, had: map[string][]string{}}
	must(b.installAndBackUp("1.0.0", backup.InstallOptions{}))
	b.m.Advance(time.Minute)
	b.write(backup.System, "apps/own/file", "the attacker's")
	b.write(backup.System, "apps/own/sub/file", "the attacker's, too")
	for _, name := range []string{"data/a", "data/b", "data/sub/c"} {
		b.saved(name, "first of "+name)
	}
	b.own["etc/app.conf"], b.own["etc/both.conf"] = "default", missing
	b.db.begin(b)
	b.db.commit(b)
	must(b.boot())
	b.sync()
	b.m.Advance(time.Minute)
	return b
}

func (b *besides) say(format string, args ...any) {
	b.did = append(b.did, fmt.Sprintf(format, args...))
}

func (b *besides) pick(of ...string) string { return of[b.rng.IntN(len(of))] }

// wrongly notes the first thing that was found wrong.
func (b *besides) wrongly(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf("before %s: "+format, append([]any{b.op}, args...)...)
	}
}

func (b *besides) run() error {
	for range 1 + b.rng.IntN(3) {
		if err := b.job(); err != nil {
			return err
		}
	}
	return nil
}

// job does one job beside the others, and looks at what came of it.
func (b *besides) job() error {
	job := besideJobs[b.rng.IntN(len(besideJobs))]
	if b.tag(backup.System) != "1.0.0" {
		job = besideJobs[b.rng.IntN(2)]
		job.goal = b.tag(backup.System)
	}
	job.prepare(b)
	b.returns = job.name == "rollback"
	b.alone = b.tag(backup.UsrData) == ""
	b.version = []string{b.tag(backup.System)}
	b.outsides = b.outside()
	b.chance = []int{5, 20, 60, 200}[b.rng.IntN(4)]
	b.committed = b.db.n
	b.say("%s, where something comes before one operation in %d", job.name, b.chance)
	if b.kind.cut {
		n := 1 + b.rng.IntN(400)
		b.say("power cut at change %d", n)
		b.m.CutAt(n)
	}
	b.m.Before(b.before)
	b.working = true
	err := job.do(b)
	b.working = false
	b.m.Before(nil)
	b.say("%s: %v", job.name, err)
	if b.err != nil {
		return b.err
	}
	cut := b.m.Off()
	b.m.CutAt(0)
	switch {
	case cut:
		b.m.Restart(memfs.Random(b.rng))
		b.say("restart")
		b.version = append(b.version, job.goal)
	case err == nil, errors.Is(err, backup.ErrBusy):
		b.version = []string{job.goal}
		if err == nil && !b.returns {
			if err := b.captured(); err != nil {
				return err
			}
		}
	case errors.Is(err, backup.ErrDamage), errors.Is(err, backup.ErrBlocked):
		b.version = append(b.version, job.goal)
	default:
		return fmt.Errorf("%s ends with: %w", job.name, err)
	}
	b.m.Advance(time.Second)
	b.op = "boot"
	b.db.open(b)
	ran := b.tag(backup.System)
	err = b.repair()
	if errors.Is(err, backup.ErrDamage) && cut { // what was deleted is told once as lost
		err = b.repair()
	}
	if err != nil {
		return fmt.Errorf("boot, when all is quiet: %w", err)
	}
	b.fell = !b.returns && (b.meddled || !cut && b.tag(backup.System) != ran)
	if err := b.check(); err != nil {
		return err
	}
	b.m.Advance(time.Minute)
	b.settle()
	return nil
}

// before lets somebody act before an operation of the job.
func (b *besides) before(op, name string) {
	if b.rng.IntN(b.chance) != 0 || b.err != nil {
		return
	}
	b.op = op + " " + name
	b.m.Advance(time.Duration(b.rng.IntN(3000)) * time.Microsecond)
	n := len(b.did)
	b.kind.acts[b.rng.IntN(len(b.kind.acts))](b)
	for i := n; i < len(b.did); i++ {
		b.did[i] = "  before " + b.op + ": " + b.did[i]
	}
}

// sys is system as the actors see it.
func (b *besides) sys() fsys.FS { return b.fs(backup.System) }

// now returns what lies at a path below apps on a side.
func (b *besides) now(side backup.SideName, name string) string {
	content, ok := b.read(side, path.Join(appsDir, name))
	if !ok {
		return missing
	}
	return content
}

// saved makes or replaces a file of system, durably.
func (b *besides) saved(name, content string) {
	b.durably(name, content)
	b.own[name] = content
}

// durably writes a file as a careful program does: beside it, synced, renamed.
func (b *besides) durably(name, content string) {
	fs, to := b.sys(), path.Join(appsDir, name)
	b.try(fsys.MkdirAll(fs, path.Dir(to), 0o755))
	_ = fs.Remove(to + ".tmp") // that a power cut left
	f, err := fs.Create(to+".tmp", 0o644)
	if b.try(err) {
		_, err = io.WriteString(f, content)
		b.try(errors.Join(err, f.Sync(), f.Close()))
		b.try(fs.Rename(to+".tmp", to))
		b.syncDir(path.Dir(to))
	}
}

func (b *besides) syncDir(dir string) {
	for ; ; dir = path.Dir(dir) {
		b.try(b.sys().SyncDir(dir))
		if dir == appsDir {
			return
		}
	}
}

// try takes an error of an actor's own: only a power cut is none of its doing.
func (b *besides) try(err error) bool {
	if err != nil && !b.m.Off() {
		b.wrongly("an actor's own operation: %v", err)
	}
	return err == nil
}

// application writes, deletes, renames and makes what it owns, each as programs
// do, and finds what it left.
func (b *besides) application() {
	name := b.pick("data/a", "data/b", "data/sub/c", "data/d", "etc/app.conf", "etc/both.conf")
	has := b.now(backup.System, name)
	if b.m.Off() {
		return
	}
	if want, ok := b.own[name]; ok && has != want && b.meddled && (want == missing || b.somewhere(want)) {
		b.own[name] = has // the version was given up, and what was there lies beside it
	} else if ok && has != want && !slices.Contains(b.more[name], has) && !isDefault(has) && !b.returns {
		b.wrongly("%s has %q, the application left %q", name, has, want)
		return
	}
	content := fmt.Sprintf("%s %d", name, b.rng.IntN(1_000_000))
	is := func(name, content string) {
		b.had[name] = append(b.had[name], content)
		if b.m.Off() { // it happened, or it did not
			b.more[name] = append(b.more[name], content)
			return
		}
		b.own[name] = content
		b.more[name] = nil
	}
	file := path.Join(systemDir, appsDir, name)
	switch act := b.rng.IntN(8); {
	case act == 0 || has == missing:
		b.say("save %s = %q", name, content)
		b.durably(name, content)
		is(name, content)
	case act == 1:
		b.say("overwrite %s = %q", name, content)
		b.try(b.disk(backup.System).Edit(file, func([]byte) []byte { return []byte(content) }))
		is(name, content)
	case act == 2:
		b.say("overwrite %s = %q, with fdatasync", name, content)
		b.try(b.disk(backup.System).EditData(file, func([]byte) []byte { return []byte(content) }))
		is(name, content)
	case act == 3:
		b.say("append to %s", name)
		b.try(b.disk(backup.System).Edit(file, func(old []byte) []byte { return append(slices.Clone(old), '+') }))
		is(name, has+"+")
	case act == 4:
		b.say("delete %s", name)
		captured := b.now(backup.UsrData, name)
		b.try(b.sys().Remove(path.Join(appsDir, name)))
		b.syncDir(path.Dir(path.Join(appsDir, name)))
		if b.kind.cut { // gone since a power cut: that may be damage, and the capture comes back
			b.more[name] = append(append(b.more[name], captured, has, missing), b.had[name]...) // a capture may be on its way
			if !b.m.Off() {
				b.own[name] = missing
			}
			return
		}
		is(name, missing)
	case act == 5:
		b.say("remove %s and write it anew = %q", name, content)
		captured := b.now(backup.UsrData, name)
		b.try(b.sys().Remove(path.Join(appsDir, name)))
		b.durably(name, content)
		is(name, content)
		if b.m.Off() { // gone, with nothing newer beside it: the capture comes back
			b.more[name] = append(append(b.more[name], missing, captured), b.had[name]...)
		}
	case act == 6:
		to := b.pick("data/a", "data/b", "data/sub/c", "data/d")
		if to == name || b.kind.cut {
			return
		}
		b.say("rename %s to %s", name, to)
		b.try(b.sys().Rename(path.Join(appsDir, name), path.Join(appsDir, to)))
		is(name, missing)
		is(to, has)
	case act == 7:
		b.say("overwrite %s = %q in two steps", name, content)
		b.try(b.disk(backup.System).Edit(file, func([]byte) []byte { return []byte{} }))
		b.try(b.disk(backup.System).Edit(file, func([]byte) []byte { return []byte(content) }))
		is(name, content)
		if b.m.Off() {
			b.more[name] = append(b.more[name], "")
		}
	}
}

// isDefault reports whether a content comes from a release: the application does not
// care which.
func isDefault(content string) bool { return strings.HasPrefix(content, "default of ") }

// settle takes what lies there after a boot as what the application left.
func (b *besides) settle() {
	for name := range b.more {
		b.own[name] = b.now(backup.System, name)
	}
	if b.fell { // the application goes on from the capture
		for name := range b.own {
			b.own[name] = b.now(backup.System, name)
		}
		b.db.n = 0
		b.db.open(b)
	}
	if n, err := readDB(func(name string) string { return b.now(backup.System, name) }); err == nil {
		b.db.n = min(b.db.n, n) // the rest lies aside
	}
	clear(b.more)
	clear(b.had)
	for name := range b.own { // also where usr_data is lost next
		b.had[name] = []string{b.now(backup.UsrData, name)}
	}
	b.edits = nil
}

// captured looks at usr_data after a job that succeeded: its database is whole,
// and has what was committed before the job began.
func (b *besides) captured() error {
	n, err := readDB(func(name string) string { return b.now(backup.UsrData, name) })
	if err != nil {
		return fmt.Errorf("the captured database: %w", err)
	}
	if n < b.committed {
		return fmt.Errorf("the captured database is at %d, the job began at %d", n, b.committed)
	}
	return nil
}

// check looks at a device that has booted when all was quiet.
func (b *besides) check() error {
	version := b.tag(backup.System)
	if b.meddled { // what nobody else has may not be mended
		b.version = append(b.version, "1.0.0")
	}
	if !slices.Contains(b.version, version) {
		return fmt.Errorf("system is %q, expected one of %q", version, b.version)
	}
	for _, side := range sides {
		if got := b.tag(side); got != version {
			return fmt.Errorf("%s is %q, system %q", side, got, version)
		}
		bad := b.wrong(side, appsDir, version)
		if len(bad) > 0 {
			return fmt.Errorf("%s is not whole: %v", side, bad)
		}
	}
	for name, want := range b.own {
		if b.returns {
			b.more[name] = nil
			continue
		}
		got := b.now(backup.System, name)
		if got != want && !slices.Contains(b.more[name], got) && !isDefault(got) && !(b.kind.cut && b.aside(want)) && !(b.fell && (want == missing || b.somewhere(want))) {
			return fmt.Errorf("%s is %q, the application left %q (or %q)", name, got, want, b.more[name])
		}
	}
	if n, err := readDB(func(name string) string { return b.now(backup.System, name) }); !b.returns && (err != nil || n < b.db.n && !(b.kind.cut && b.aside(pages(b.db.n, b.db.n))) && !(b.fell && b.somewhere(pages(b.db.n, b.db.n)))) {
		return fmt.Errorf("the database is at %d, %v: it was committed at %d", n, err, b.db.n)
	}
	have := map[string]bool{}
	for _, side := range sides {
		walk(b.fs(side), ".", func(_ string, _ fsys.Info, content string) { have[content] = true })
	}
	for _, e := range b.edits {
		if !have[e] {
			return fmt.Errorf("what a person wrote, %q, is nowhere any more", e)
		}
	}
	if diff := difference(b.outsides, b.outside()); diff != "" {
		return fmt.Errorf("outside of the sides: %s", diff)
	}
	app := map[string]bool{}
	if _, ok := b.read(backup.System, recordFile); ok {
		for _, e := range get(b.record(backup.System)).Manifest.Files {
			app[string(e.Path)] = true
		}
	}
	trees := map[backup.SideName]map[string]string{}
	for _, side := range sides {
		trees[side] = b.tree(side, app)
	}
	for name, what := range trees[backup.System] { // what is none of Tandem's keeps its last capture
		if strings.HasPrefix(what, string(fsys.TypeOther)) {
			for _, side := range sides {
				maps.DeleteFunc(trees[side], func(n, _ string) bool { return n == name || strings.HasPrefix(n, name+"/") })
			}
		}
	}
	if diff := difference(trees[backup.System], trees[backup.UsrData]); diff != "" {
		return fmt.Errorf("the sides differ: %s", diff)
	}
	return nil
}

// somewhere reports whether a content lies on system for people to find: put aside, or
// beside what won; or, in the midst of a job, in the undo log, from which it goes there.
func (b *besides) somewhere(content string) (there bool) {
	for _, dir := range []string{appsDir, ".tandem/next/old"} {
		walk(b.sys(), dir, func(_ string, _ fsys.Info, c string) { there = there || c == content })
	}
	return there || b.aside(content)
}

// aside reports whether a content was put aside on system: what the power cut found
// under the stamps of a capture whose index it took looks like damage.
func (b *besides) aside(content string) (there bool) {
	walk(b.sys(), ".tandem/aside", func(_ string, _ fsys.Info, c string) { there = there || c == content })
	return there
}

// TestWrittenInPlace has a database write into a file that was captured, with
// fdatasync, and cuts the power: the new content lies under the old stamps of the
// old inode, and stands.
func TestWrittenInPlace(t *testing.T) {
	t.Parallel()
	for flavour, o := range flavours {
		for i, choice := range memfs.Choices(*seed, 4) {
			d := newDevice(o)
			must(d.installAndBackUp("1.0.0", backup.InstallOptions{}))
			d.write(backup.System, "apps/data/db", "content 1")
			d.m.Advance(time.Minute)
			must(d.boot())
			d.m.Advance(time.Minute)
			must(d.disk(backup.System).EditData(path.Join(systemDir, "apps/data/db"), func([]byte) []byte { return []byte("content 2") }))
			d.m.Restart(choice)
			must(d.boot())
			for _, side := range sides {
				if got, _ := d.read(side, "apps/data/db"); got != "content 2" {
					t.Errorf("%s, state %d (seed %d): %s has %q", flavour, i, *seed, side, got)
				}
			}
		}
	}
}

// TestLinkSwappedIn swaps a file that is about to get its attributes back for
// another name of somebody else's file, before each operation of the repair: that
// one keeps its own.
func TestLinkSwappedIn(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		d := newDevice(memfs.Options{})
		must(d.installAndBackUp("1.0.0", backup.InstallOptions{}))
		d.m.Advance(time.Minute)
		const app = "apps/bin/app"
		i := get(d.fs(backup.System).Lstat(app))
		must(d.fs(backup.System).SetAttr(app, fsys.Attr{Mode: 0o777, UID: 1000, Mtime: i.Mtime}, i))
		before, n := d.outside(), 0
		d.m.Before(func(string, string) {
			if n++; n == at {
				must(d.fs(backup.System).Remove(app))
				must(d.disk(backup.System).FS().Link("etc/passwd", path.Join(systemDir, app)))
			}
		})
		_ = d.boot()
		d.m.Before(nil)
		if diff := difference(before, d.outside()); diff != "" {
			t.Fatalf("swapped before operation %d: %s", at, diff)
		}
		if n < at {
			return
		}
		d.m.Advance(time.Minute)
		must(d.boot())
	}
}

// The database: two pages and a journal, which holds what the pages had before
// a transaction.
const (
	dbFile    = "data/db/pages"
	dbJournal = "data/db/pages-journal"
)

// dbState is a database that is at n, and where it is in a transaction.
type dbState struct {
	n    int // committed
	step int // of the transaction: 0 is none
}

func pages(a, b int) string { return fmt.Sprintf("%d %d", a, b) }

// readDB opens a database as its library does, and returns where it is.
func readDB(read func(name string) string) (int, error) {
	data, journal := read(dbFile), read(dbJournal)
	var n, m int
	if _, err := fmt.Sscanf(journal, "was %d.", &n); err == nil && strings.HasSuffix(journal, ".") {
		return n, nil // hot: rolled back
	}
	if data == missing {
		return 0, nil
	}
	if _, err := fmt.Sscanf(data, "%d %d", &n, &m); err != nil || n != m {
		return 0, fmt.Errorf("torn: %q, journal %q", data, journal)
	}
	return n, nil
}

func (s *dbState) begin(b *besides) {
	b.durably(dbJournal, fmt.Sprintf("was %d.", s.n))
	if !b.m.Off() {
		s.step = 1
	}
}

func (s *dbState) commit(b *besides) {
	for s.step > 0 && !b.m.Off() {
		s.next(b)
	}
}

// next is the next step of a transaction.
func (s *dbState) next(b *besides) {
	set := func(a, c int) {
		if b.now(backup.System, dbFile) == missing {
			b.durably(dbFile, pages(a, c))
			return
		}
		b.try(b.disk(backup.System).EditData(path.Join(systemDir, appsDir, dbFile), func([]byte) []byte { return []byte(pages(a, c)) }))
	}
	switch s.step {
	case 0:
		s.begin(b)
		return
	case 1:
		set(s.n+1, s.n)
	case 2:
		set(s.n+1, s.n+1)
	case 3:
		b.try(b.sys().Remove(path.Join(appsDir, dbJournal)))
		b.syncDir(path.Dir(path.Join(appsDir, dbJournal)))
		if !b.m.Off() {
			s.n++
			s.step = -1
		}
	}
	if !b.m.Off() {
		s.step++
	}
}

// open opens the database of system anew, as an application does when it starts.
func (s *dbState) open(b *besides) {
	n, err := readDB(func(name string) string { return b.now(backup.System, name) })
	if b.returns {
		n, err = max(n, 1), nil
		s.n = n
	}
	if err != nil || n < s.n {
		b.wrongly("the database is at %d, %v: it was committed at %d", n, err, s.n)
		return
	}
	s.n = n
	b.durably(dbFile, pages(n, n))
	if b.now(backup.System, dbJournal) != missing {
		b.try(b.sys().Remove(path.Join(appsDir, dbJournal)))
	}
	s.step = 0
	b.syncDir(path.Dir(path.Join(appsDir, dbFile)))
}

// database goes on with a transaction.
func (b *besides) database() {
	if b.m.Off() || b.returns { // the application would have to be stopped for that
		return
	}
	b.say("database at %d, step %d", b.db.n, b.db.step)
	b.db.next(b)
}

// attacker swaps what it owns, the directory own, for whatever it can make.
func (b *besides) attacker() {
	fs, own := b.sys(), "apps/own"
	name := path.Join(own, b.pick("file", "sub", "sub/file", "a", "b", "sub/a"))
	if b.rng.IntN(10) == 0 {
		name = own
	}
	spare := "apps/" + b.pick("own.x", "own.y") // beside it, where it may write, too
	act := b.rng.IntN(9)
	b.say("attacker: %d at %s", act, name)
	switch act { // whether it works is the attacker's business
	case 0:
		_ = fs.Rename(name, spare)
		_ = fs.Symlink(b.pick("..", "../bin", "../../../..", "../../.tandem", "/etc"), name)
	case 1:
		_ = fsys.RemoveAll(fs, name)
		_ = b.disk(backup.System).Mkfifo(path.Join(systemDir, name), 0o666)
	case 2:
		_ = fsys.RemoveAll(fs, name)
		if f, err := fs.Create(name, 0o666); err == nil {
			_, _ = io.WriteString(f, "the attacker's")
			_ = f.Close()
		}
	case 3:
		_ = fsys.RemoveAll(fs, name)
		_ = fsys.MkdirAll(fs, path.Join(name, "deep"), 0o777)
	case 4: // where the kernel lets it: a name of its own for somebody else's file
		_ = fsys.RemoveAll(fs, name)
		_ = b.disk(backup.System).FS().Link(b.pick("etc/passwd", systemDir+"/apps/bin/app", systemDir+"/app_ver.txt"), path.Join(systemDir, name))
	case 5:
		_ = fs.Rename(name, path.Join(own, b.pick("a", "b", "sub/a")))
	case 6:
		_ = fs.Exchange(name, spare)
	case 7:
		if i, err := fs.Lstat(name); err == nil && i.Nlink < 2 && i.Type != fsys.TypeOther {
			_ = fs.SetAttr(name, fsys.Attr{Mode: uint32(b.rng.IntN(0o10000)), UID: 1000, GID: 1000, Mtime: i.Mtime}, i)
		}
	case 8:
		_ = fsys.MkdirAll(fs, own, 0o777)
		_ = fsys.RemoveAll(fs, spare)
	}
}

// person edits and replaces files of the application, and configuration.
func (b *besides) person() {
	if b.rng.IntN(20) != 0 || b.alone { // there must be something to mend it from
		return
	}
	b.meddled = true
	name := b.pick("bin/app", "bin/helper")
	content := fmt.Sprintf("a person's %d", b.rng.IntN(1_000_000))
	was := b.now(backup.System, name)
	b.edits = slices.DeleteFunc(b.edits, func(e string) bool { return e == was }) // by the same hand
	switch b.rng.IntN(3) {
	case 0:
		b.say("a person edits %s: %q", name, content)
		if b.disk(backup.System).Edit(path.Join(systemDir, appsDir, name), func([]byte) []byte { return []byte(content) }) != nil {
			return
		}
	case 1:
		b.say("a person replaces %s: %q", name, content)
		b.durably(name, content)
	case 2:
		b.say("a person deletes %s", name)
		_ = b.sys().Remove(path.Join(appsDir, name))
		return
	}
	// Without an exchange, and where nothing was, a moment is left in which it is lost.
	if !b.m.Off() && !b.kind.cut && b.exchange && was != missing {
		b.edits = append(b.edits, content)
	}
}
