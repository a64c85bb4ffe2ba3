package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"tandem/internal/jsonschema"
)

// Each script has a device of its own in $WORK: tandem.toml, root.json, and
// the sides system and usr_data. Beside testscript's own there are these
// commands:
//
//	tandem ARGS                  run tandem with that configuration; ! for "fails"
//	tandem-release ARGS          run tandem-release
//	exits CODE PROGRAM ARGS      run a program that ends with exactly CODE
//	factory DIR TAG              put an application and its tag there by hand
//	instep VERSION               both sides are the same, and that version
//	snapshot NAME DIR...         remember what lies in the directories
//	[!] unchanged NAME           it is still the same, to whoever looks
//	untouched NAME               ... and was not even written again
//	json FILE [PATH [VALUE]]     exactly one JSON document, with that value
//	serve REPO                   serve a repository with tandem-release; sets URL
//	source URL                   make that the device's source
//	badserver HOW REPO           serve a repository badly; sets URL
//	craft HOW FILE               make a signed bundle that only a path is wrong with
//	hold FILE                    hold a lock, as another tandem would
//	tmpfs DIR [OPTIONS]          mount a small file system there
//	bind DIR [ro]                mount a directory over itself
//	remount DIR OPTIONS
//	disk DIR KIND [SIZE [ARGS]]  make a file system of that kind and size, and mount it there
//	again DIR                    unmount it, and mount it again
//	mount ARGS... DIR            mount(8), until the script ends
//	immutable FILE               ... for everybody, until the script ends; "!" for no longer
//	fill DIR                     leave no room on a file system
//	cut FILE N OUT               copy the first N bytes, or all but the last -N
//	xattr FILE NAME [VALUE]      set an attribute, or print it
//
// The conditions [mount], [xattr] and [disk:KIND] say that the test may do what it takes.
func params(t *testing.T, dir string, vars ...string) testscript.Params {
	return testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", binDir+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("BUNDLES", pubDir)
			e.Setenv("KEYS", filepath.Join(pubDir, "keys"))
			e.Setenv("ROOT", filepath.Join(pubDir, "repo", "root.json"))
			e.Setenv("REPO", filepath.Join(pubDir, "repo"))
			for i := 0; i < len(vars); i += 2 {
				e.Setenv(vars[i], vars[i+1])
			}
			e.Values[snapshotsKey] = snapshots{}
			e.Values[disksKey] = map[string][]string{}
			return provision(e.WorkDir, "")
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "mount":
				return canMount(t), nil
			case "xattr":
				return canXattr(t), nil
			}
			if kind, ok := strings.CutPrefix(cond, "disk:"); ok {
				return canMount(t) && canMake(kind), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tandem":         func(ts *testscript.TestScript, neg bool, args []string) { runProgram(ts, neg, "tandem", args) },
			"tandem-release": func(ts *testscript.TestScript, neg bool, args []string) { runProgram(ts, neg, "tandem-release", args) },
			"exits":          cmdExits,
			"factory":        cmdFactory,
			"instep":         cmdInStep,
			"snapshot":       cmdSnapshot,
			"unchanged":      cmdUnchanged,
			"untouched":      cmdUntouched,
			"json":           cmdJSON,
			"serve":          cmdServe,
			"source":         cmdSource,
			"badserver":      cmdBadServer,
			"craft":          cmdCraft,
			"hold":           cmdHold,
			"tmpfs":          cmdTmpfs,
			"bind":           cmdBind,
			"remount":        cmdRemount,
			"disk":           cmdDisk,
			"again":          cmdAgain,
			"mount":          cmdMount,
			"immutable":      cmdImmutable,
			"fill":           cmdFill,
			"cut":            cmdCut,
			"xattr":          cmdXattr,
		},
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	testscript.Run(t, params(t, filepath.Join("testdata", "script")))
}

// The guide's situations and tests, each side in turn, with its whole-number
// tags and with semantic versions. In both pairs the higher version comes
// first where texts are compared.
func TestGuide(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	for _, tags := range [][2]string{{"9", "10"}, {"1.9.0", "1.10.0"}} {
		for _, sides := range [][2]string{{"system", "usr_data"}, {"usr_data", "system"}} {
			t.Run(tags[0]+" to "+tags[1]+" on "+sides[0], func(t *testing.T) {
				t.Parallel()
				testscript.Run(t, params(t, filepath.Join("testdata", "guide"),
					"LOW", tags[0], "HIGH", tags[1], "ONE", sides[0], "OTHER", sides[1]))
			})
		}
	}
}

// lines collects what a program writes.
type lines = strings.Builder

func withConfig(args []string) []string {
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--config") }) {
		return args
	}
	return append([]string{"--config", "tandem.toml"}, args...)
}

func runProgram(ts *testscript.TestScript, neg bool, name string, args []string) {
	if name == "tandem" {
		args = withConfig(args)
	}
	err := ts.Exec(name, args...)
	checkDocument(ts, name, args, exitCode(err))
	var exit *exec.ExitError
	switch {
	case err == nil && neg:
		ts.Fatalf("unexpected success")
	case errors.As(err, &exit) && neg:
	default:
		ts.Check(err)
	}
}

// exitCode returns the exit code of a program that ran; -1 if it did not.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// checkDocument holds what tandem printed with --json against
// docs/output.schema.json: that is done for each command of each script.
func checkDocument(ts *testscript.TestScript, program string, args []string, exit int) {
	if program != "tandem" || !slices.Contains(args, "--json") {
		return
	}
	text := []byte(ts.ReadFile("stdout"))
	var doc struct{ Exit *int }
	ts.Check(json.Unmarshal(text, &doc))
	if doc.Exit == nil || *doc.Exit != exit {
		ts.Fatalf("exit code %d, but the document says otherwise:\n%s", exit, text)
	}
	schema, err := jsonschema.Load("../../docs/output.schema.json")
	ts.Check(err)
	if schema.Valid("#/$defs/failure", text) == nil {
		return
	}
	command := args[slices.IndexFunc(args, func(a string) bool { return a == "--config" })+2]
	if command == "--json" || command == "--quiet" || command == "--verbose" {
		command = args[3]
	}
	if command == "verify" && slices.Contains(args, "--repair") {
		command = "boot"
	}
	if err := schema.Valid("#/$defs/"+command, text); err != nil {
		ts.Fatalf("%s: %v\n%s", command, err, text)
	}
}

func need(ts *testscript.TestScript, neg bool, ok bool, usage string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "exits CODE PROGRAM ARGS...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	rest := args[2:]
	if args[1] == "tandem" {
		rest = withConfig(rest)
	}
	err = ts.Exec(args[1], rest...)
	got := exitCode(err)
	if got < 0 {
		ts.Check(err)
	}
	checkDocument(ts, args[1], rest, got)
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdFactory(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "factory DIR TAG")
	dir := ts.MkAbs(args[0])
	ts.Check(writeApp(filepath.Join(dir, "apps"), args[1]))
	ts.Check(os.WriteFile(filepath.Join(dir, "app_ver.txt"), []byte(args[1]+"\n"), 0o644))
}

// cmdInStep compares the sides with each other, and the tag with what is expected.
func cmdInStep(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "instep VERSION")
	var sides [2]tree
	for i, name := range []string{"system", "usr_data"} {
		dir := ts.MkAbs(name)
		var err error
		sides[i], err = readTree(dir, "apps", "app_ver.txt", ".tandem/record")
		ts.Check(err)
		tag, err := os.ReadFile(filepath.Join(dir, "app_ver.txt"))
		ts.Check(err)
		if strings.TrimSpace(string(tag)) != args[0] {
			ts.Fatalf("%s: tag %q, want %q", name, tag, args[0])
		}
		if _, ok := sides[i]["apps"]; !ok || len(sides[i]) < 4 {
			ts.Fatalf("%s has no application", name)
		}
	}
	report(ts, sides[0].differences(sides[1], asCopy), "the sides differ")
	ts.Check(ts.Exec("tandem", "--config", "tandem.toml", "status", "--json"))
	var s struct {
		InStep bool `json:"in_step"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	if !s.InStep {
		ts.Fatalf("the sides are the same, but status says that they are not in step")
	}
}

// snapshots are what a script remembers, under snapshotsKey of its values.
type snapshots map[string]snapshot

const snapshotsKey = "snapshots"

type snapshot struct {
	dirs []string
	tree tree
}

func (s snapshot) again(ts *testscript.TestScript) tree {
	now, err := readTree(ts.MkAbs("."), s.dirs...)
	ts.Check(err)
	return now
}

func cmdSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "snapshot NAME DIR...")
	s := snapshot{dirs: args[1:]}
	s.tree = s.again(ts)
	ts.Value(snapshotsKey).(snapshots)[args[0]] = s
}

func named(ts *testscript.TestScript, args []string) snapshot {
	s, ok := ts.Value(snapshotsKey).(snapshots)[args[0]]
	if !ok {
		ts.Fatalf("no snapshot %s", args[0])
	}
	return s
}

func cmdUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, len(args) == 1, "unchanged NAME")
	s := named(ts, args)
	diff := s.tree.differences(s.again(ts), unchanged)
	if neg {
		if len(diff) == 0 {
			ts.Fatalf("%s is unchanged", args[0])
		}
		return
	}
	report(ts, diff, args[0]+" changed")
}

func cmdUntouched(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "untouched NAME")
	s := named(ts, args)
	report(ts, s.tree.differences(s.again(ts), untouched), args[0]+" was written to")
}

func report(ts *testscript.TestScript, diff []string, what string) {
	if len(diff) > 0 {
		ts.Fatalf("%s:\n\t%s", what, strings.Join(diff, "\n\t"))
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 1 && len(args) <= 3, "json FILE [PATH [VALUE]]")
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		ts.Fatalf("%s: no JSON document: %v", args[0], err)
	}
	if _, err := dec.Token(); err != io.EOF {
		ts.Fatalf("%s: more than one JSON document", args[0])
	}
	if len(args) == 1 {
		return
	}
	for key := range strings.SplitSeq(strings.Trim(args[1], "."), ".") {
		switch v := doc.(type) {
		case map[string]any:
			next, ok := v[key]
			if !ok {
				ts.Fatalf("%s: no %s", args[1], key)
			}
			doc = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(v) {
				ts.Fatalf("%s: a list of %d, no %s in it", args[1], len(v), key)
			}
			doc = v[i]
		default:
			ts.Fatalf("%s: %v has no %s", args[1], v, key)
		}
	}
	got, ok := doc.(string)
	if !ok {
		b, err := json.Marshal(doc)
		ts.Check(err)
		got = string(b)
	}
	if len(args) == 3 && got != args[2] {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[2])
	}
}

// cmdServe runs the embedded server until the script ends; it must then end
// by itself.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "serve REPO")
	cmd := exec.Command(filepath.Join(binDir, "tandem-release"), "repo", "serve", args[0], "--listen", "127.0.0.1:0")
	cmd.Dir = ts.MkAbs(".")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			ts.Fatalf("repo serve did not end cleanly: %v", err)
		}
	})
	var url string
	_, err = fmt.Fscanln(out, &url)
	ts.Check(err)
	ts.Setenv("URL", url)
}

func cmdSource(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "source URL")
	ts.Check(os.WriteFile(ts.MkAbs("tandem.toml"), []byte(deviceConfig+sourceSection(args[0])), 0o644))
}

func sourceSection(url string) string { return fmt.Sprintf("\n[source]\nurl = %q\n", url) }

func cmdBadServer(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "badserver HOW REPO")
	wrap, ok := badServers[args[0]]
	if !ok {
		ts.Fatalf("no such server: %s", args[0])
	}
	url, end := startServer(wrap(goodServer(ts.MkAbs(args[1]))))
	ts.Defer(end)
	ts.Setenv("URL", url)
}

func goodServer(repo string) http.Handler { return http.FileServer(http.Dir(repo)) }

func cmdCraft(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "craft HOW FILE")
	ts.Check(craft(args[0], ts.MkAbs(args[1])))
}

func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "hold FILE")
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ts.Defer(func() { f.Close() })
}

func cmdTmpfs(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1 || len(args) == 2, "tmpfs DIR [OPTIONS]")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(args[1:], "")))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func cmdBind(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1 || len(args) == 2 && args[1] == "ro", "bind DIR [ro]")
	dir := ts.MkAbs(args[0])
	ts.Check(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	if len(args) == 2 {
		ts.Check(unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func cmdRemount(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2 && (args[1] == "ro" || args[1] == "rw"), "remount DIR ro|rw")
	flags := uintptr(unix.MS_REMOUNT)
	if args[1] == "ro" {
		flags |= unix.MS_RDONLY
	}
	ts.Check(unix.Mount("tmpfs", ts.MkAbs(args[0]), "tmpfs", flags, ""))
}

func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "fill DIR")
	ts.Check(fill(ts.MkAbs(args[0]), 0))
}

// fill leaves that many bytes free on the file system of dir.
func fill(dir string, free int64) error {
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*int64(st.Bsize)-free); err != nil {
		return fmt.Errorf("fill %s: %w", dir, err)
	}
	return f.Close()
}

func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 3, "cut FILE N OUT")
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	if n < 0 {
		n += len(data)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), data[:n], 0o644))
}

func cmdXattr(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2 || len(args) == 3, "xattr FILE NAME [VALUE]")
	file := ts.MkAbs(args[0])
	if len(args) == 3 {
		ts.Check(unix.Setxattr(file, args[1], []byte(args[2]), 0))
		return
	}
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(file, args[1], buf)
	ts.Check(err)
	_, err = fmt.Fprintln(ts.Stdout(), string(buf[:n]))
	ts.Check(err)
}

// canMount reports whether file systems may be mounted: as root outside most
// containers, yes.
func canMount(t testing.TB) bool {
	dir := t.TempDir()
	if unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k") != nil {
		return false
	}
	return unix.Unmount(dir, unix.MNT_DETACH) == nil
}

func canXattr(t testing.TB) bool {
	return unix.Setxattr(t.TempDir(), "user.tandem", []byte("x"), 0) == nil
}
