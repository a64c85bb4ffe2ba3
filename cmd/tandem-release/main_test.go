package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tandem-release": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     code,
			"flip":     flip,
			"truncate": truncate,
			"fetch":    fetch,
			"craft":    craft,
			"delegate": delegate,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOURCE_DATE_EPOCH", "")
			return nil
		},
	})
}

// code N COMMAND... runs a command that must end with exit code N, and keeps
// its output.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s ends with exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// flip FILE TEXT [last] changes the byte after the first place, or the last one,
// where FILE has TEXT to a digit, so that what was valid text or hexadecimal stays that.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	data := ts.ReadFile(args[0])
	i := strings.Index(data, args[1])
	if len(args) > 2 {
		i = strings.LastIndex(data, args[1])
	}
	if i < 0 {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	raw := []byte(data)
	if at := i + len(args[1]); raw[at] == '0' {
		raw[at] = '1'
	} else {
		raw[at] = '0'
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), raw, 0o644))
}

// truncate FILE N removes the last N bytes of FILE.
func truncate(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), int64(len(ts.ReadFile(args[0]))-n)))
}

// craft IN OUT OLD NEW gives the bundle IN another release.json or parts.json, in which OLD is
// replaced by NEW, and signs it with keys/: what a publisher who is not
// tandem-release could make. It writes the tar with the standard library.
func craft(ts *testscript.TestScript, _ bool, args []string) {
	members := map[string]string{}
	var order []string
	for r := tar.NewReader(strings.NewReader(ts.ReadFile(args[0]))); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		ts.Check(err)
		content, err := io.ReadAll(r)
		ts.Check(err)
		members[h.Name] = string(content)
		order = append(order, h.Name)
	}
	manifest := unpacked(ts, members["release.json.zst"])
	changed := strings.Replace(manifest, args[2], args[3], 1)
	inParts := strings.Replace(members["parts.json"], args[2], args[3], 1)
	switch {
	case args[2] == args[3]:
	case changed != manifest:
		z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
		ts.Check(err)
		members["release.json.zst"] = string(z.EncodeAll([]byte(changed), nil))
		var parts bundle.Parts
		ts.Check(json.Unmarshal([]byte(members["parts.json"]), &parts))
		parts.Release = bundle.Whole{Length: int64(len(changed)), SHA256: digest.Of([]byte(changed))}
		encoded, err := parts.Encode()
		ts.Check(err)
		members["parts.json"] = string(encoded)
	case inParts != members["parts.json"]:
		members["parts.json"] = inParts
	default:
		ts.Fatalf("neither release.json nor parts.json has %q: %s%s", args[2], manifest, inParts)
	}
	targets, _, err := bundle.ParseTargets([]byte(members["metadata/targets.json"]))
	ts.Check(err)
	for name, target := range targets.Signed.Targets {
		sum := digest.Of([]byte(members[name]))
		target.Length, target.Hashes["sha256"] = int64(len(members[name])), sum[:]
	}
	targets.ClearSignatures()
	keys, err := fsys.OpenOS(ts.MkAbs("keys"))
	ts.Check(err)
	defer keys.Close()
	root, err := trust.ParseRoot([]byte(ts.ReadFile("repo/root.json")))
	ts.Check(err)
	sign, err := signing.ForBundle(signing.Dir{FS: keys}, root)
	ts.Check(err)
	ts.Check(sign(targets))
	raw, err := targets.ToBytes(false)
	ts.Check(err)
	members["metadata/targets.json"] = string(raw)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range order {
		ts.Check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(members[name])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}))
		_, err := io.WriteString(w, members[name])
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o644))
}

// delegate REPO ROLE TARGET takes TARGET off the list of a repository without delegations
// and has it listed by ROLE, to which all names with the same beginning are delegated: what
// another TUF tool would do. The keys are those in keys/ and online/.
func delegate(ts *testscript.TestScript, _ bool, args []string) {
	repo, role, name := ts.MkAbs(args[0]), args[1], args[2]
	newest := func(of string) string {
		all, err := filepath.Glob(filepath.Join(repo, "metadata", "*."+of+".json"))
		ts.Check(err)
		slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
		return all[len(all)-1]
	}
	targets, err := metadata.Targets().FromFile(newest(metadata.TARGETS))
	ts.Check(err)
	snapshot, err := metadata.Snapshot().FromFile(newest(metadata.SNAPSHOT))
	ts.Check(err)
	timestamp, err := metadata.Timestamp().FromFile(filepath.Join(repo, "metadata", "timestamp.json"))
	ts.Check(err)
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	key, err := metadata.KeyFromPublicKey(private.Public())
	ts.Check(err)
	id, err := key.ID()
	ts.Check(err)
	below := metadata.Targets(targets.Signed.Expires)
	below.Signed.Targets[name] = targets.Signed.Targets[name]
	delete(targets.Signed.Targets, name)
	app, _, _ := strings.Cut(name, "-")
	targets.Signed.Delegations = &metadata.Delegations{
		Keys: map[string]*metadata.Key{id: key}, Roles: []metadata.DelegatedRole{{Name: role, KeyIDs: []string{id}, Threshold: 1, Paths: []string{app + "-*"}}},
	}
	write := func(name string, version int64, raw []byte) *metadata.MetaFiles {
		sum := digest.Of(raw)
		ts.Check(os.WriteFile(filepath.Join(repo, "metadata", name), raw, 0o644))
		return &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	own, err := signature.LoadED25519Signer(private)
	ts.Check(err)
	snapshot.Signed.Meta[role+".json"] = write("1."+role+".json", 1, signedBy(ts, below, own))
	targets.Signed.Version++
	snapshot.Signed.Version++
	timestamp.Signed.Version++
	v := targets.Signed.Version
	snapshot.Signed.Meta["targets.json"] = write(fmt.Sprintf("%d.targets.json", v), v, signedBy(ts, targets, keyOf(ts, "keys", metadata.TARGETS)))
	v = snapshot.Signed.Version
	timestamp.Signed.Meta["snapshot.json"] = write(fmt.Sprintf("%d.snapshot.json", v), v, signedBy(ts, snapshot, keyOf(ts, "online", metadata.SNAPSHOT)))
	write("timestamp.json", timestamp.Signed.Version, signedBy(ts, timestamp, keyOf(ts, "online", metadata.TIMESTAMP)))
}

func keyOf(ts *testscript.TestScript, dir, role string) signature.Signer {
	d, err := fsys.OpenOS(ts.MkAbs(dir))
	ts.Check(err)
	defer d.Close()
	s, err := signing.Dir{FS: d}.Signer(role)
	ts.Check(err)
	return s
}

func signedBy[T metadata.Roles](ts *testscript.TestScript, meta *metadata.Metadata[T], key signature.Signer) []byte {
	meta.ClearSignatures()
	_, err := meta.Sign(key)
	ts.Check(err)
	raw, err := meta.ToBytes(false)
	ts.Check(err)
	return raw
}

func unpacked(ts *testscript.TestScript, packed string) string {
	d, err := zstd.NewReader(nil)
	ts.Check(err)
	defer d.Close()
	plain, err := d.DecodeAll([]byte(packed), nil)
	ts.Check(err)
	return string(plain)
}

// fetch URLFILE PATH CODE OUT asks a server, whose URL is the first line of
// URLFILE, for PATH; it waits for the server to say its URL.
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	var url string
	for range 200 {
		raw, _ := os.ReadFile(ts.MkAbs(args[0]))
		if line, _, ok := strings.Cut(string(raw), "\n"); ok {
			url = line
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	resp, err := http.Get(url + args[1])
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if fmt.Sprint(resp.StatusCode) != args[2] {
		ts.Fatalf("GET %s: %s, want %s", args[1], resp.Status, args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), body, 0o644))
}

// Each command explains itself.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Long == "" || cmd.Runnable() && cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s lacks help or an example", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %q ends with a full stop", cmd.CommandPath(), cmd.Short)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand(&program{stdout: io.Discard, stderr: io.Discard}))
}

func TestVersionLine(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}
	info.Main.Version = "v1.2.3"
	for _, c := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            string
	}{
		{"", "", info, "tandem-release v1.2.3 abc go"},
		{"2.0.0", "def", info, "tandem-release 2.0.0 def go"},
		{"", "", nil, "tandem-release (devel) go"},
	} {
		if got := versionLine(c.version, c.commit, c.info); !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v gives %q", c, got)
		}
	}
}

// A full output is an error, not silence.
func TestOutputFull(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no /dev/full here")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var messages strings.Builder
	p := &program{stdout: full, stderr: &messages, lookup: os.LookupEnv, now: time.Now}
	if got := run(t.Context(), p, []string{"version"}); got != 1 || !strings.Contains(messages.String(), syscall.ENOSPC.Error()) {
		t.Errorf("exit code %d, messages %q", got, messages.String())
	}
}
