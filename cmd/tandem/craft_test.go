package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

func matches(text, pattern string) bool { return regexp.MustCompile(pattern).MatchString(text) }

// crafted is a bundle that tandem-release would never make: what it lists, and
// what its payload holds.
type crafted struct {
	files   []map[string]any
	members []tar.Header // with content evilContent where they are files
}

const evilContent = "evil\n"

// craftings are bundles that are right in all but one path.
var craftings = map[string]crafted{
	"good":            list(file("bin/evil")),
	"climbs":          list(file("../evil")),
	"climbs-inside":   list(dir("bin"), file("bin/../../evil")),
	"absolute":        list(file("/evil")),
	"repeated":        list(file("evil"), file("evil")),
	"device":          list(other("evil", "chardev", nil)),
	"fifo":            list(other("evil", "fifo", nil)),
	"through-symlink": list(other("lib", "symlink", map[string]any{"target": "../../.."}), file("lib/evil")),
	"through-file":    list(file("lib"), file("lib/evil")),
	"hardlink-out":    list(other("evil", "hardlink", map[string]any{"link": "../../tandem.toml"})),
	"tag":             list(file("evil/../../app_ver.txt")),
	// The list is right; the payload brings something else.
	"payload-climbs":   {[]map[string]any{file("evil")}, []tar.Header{{Typeflag: tar.TypeReg, Name: "../evil", Mode: 0o644}}},
	"payload-absolute": {[]map[string]any{file("evil")}, []tar.Header{{Typeflag: tar.TypeReg, Name: "/evil", Mode: 0o644}}},
	"payload-device":   {[]map[string]any{file("evil")}, []tar.Header{{Typeflag: tar.TypeChar, Name: "evil", Mode: 0o644, Devmajor: 1, Devminor: 3}}},
	"payload-symlink":  {[]map[string]any{file("evil")}, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "evil", Linkname: "/etc/passwd", Mode: 0o777}}},
	"payload-more":     {[]map[string]any{file("evil")}, []tar.Header{{Typeflag: tar.TypeReg, Name: "evil", Mode: 0o644}, {Typeflag: tar.TypeReg, Name: "more", Mode: 0o644}}},
}

func list(files ...map[string]any) crafted {
	c := crafted{files: files}
	for _, f := range files {
		if f["type"] == "file" {
			c.members = append(c.members, tar.Header{Typeflag: tar.TypeReg, Name: f["path"].(string), Mode: 0o644})
		}
	}
	return c
}

func file(path string) map[string]any {
	sum := sha256.Sum256([]byte(evilContent))
	return map[string]any{"path": path, "type": "file", "mode": "0644", "size": len(evilContent), "sha256": hex.EncodeToString(sum[:])}
}

func dir(path string) map[string]any {
	return map[string]any{"path": path, "type": "dir", "mode": "0755"}
}

func other(path, kind string, more map[string]any) map[string]any {
	m := map[string]any{"path": path, "type": kind}
	for k, v := range more {
		m[k] = v
	}
	return m
}

// craft writes version 1.1.0 of hello with those files, signed with the
// publisher's key.
func craft(how, name string) error {
	c, ok := craftings[how]
	if !ok {
		return fmt.Errorf("no such bundle: %s", how)
	}
	payload, size, err := c.payload()
	if err != nil {
		return err
	}
	if how == "good" {
		c.files = append([]map[string]any{dir("bin")}, c.files...)
	}
	release, err := json.Marshal(map[string]any{
		"kind": "app", "app": "hello", "version": "1.1.0", "compatible": []string{"demo"},
		"files": c.files,
	})
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		return err
	}
	packed := z.EncodeAll(release, nil)
	parts, err := (&bundle.Parts{
		Release: bundle.Whole{Length: int64(len(release)), SHA256: digest.Of(release)},
		Frames:  []bundle.Frame{{Length: int64(len(payload)), Size: int64(size)}},
	}).Encode()
	if err != nil {
		return err
	}
	targets, err := signTargets(packed, parts)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range []struct {
		name string
		data []byte
	}{{"tandem-bundle", []byte("2\n")}, {"metadata/targets.json", targets}, {"release.json.zst", packed}, {"parts.json", parts}, {"payload.tar.zst", payload}} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Size: int64(len(m.data)), Mode: 0o644, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(m.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, out.Bytes(), 0o644)
}

func (c *crafted) payload() (packed []byte, size int, err error) {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, h := range c.members {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(evilContent))
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, 0, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, evilContent); err != nil {
				return nil, 0, err
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, 0, err
	}
	// A device or a link has no content; the length must not be what gives it away.
	if n := 4*512 - plain.Len(); n > 0 {
		plain.Write(make([]byte, n))
	}
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		return nil, 0, err
	}
	return z.EncodeAll(plain.Bytes(), nil), plain.Len(), nil
}

func signTargets(release, parts []byte) ([]byte, error) {
	t := metadata.Targets(bundle.Never())
	for name, data := range map[string][]byte{"release.json.zst": release, "parts.json": parts} {
		sum := sha256.Sum256(data)
		t.Signed.Targets[name] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	keys, err := fsys.OpenOS(bundleFile("keys"))
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	raw, err := os.ReadFile(bundleFile("repo/root.json"))
	if err != nil {
		return nil, err
	}
	root, err := trust.ParseRoot(raw)
	if err != nil {
		return nil, err
	}
	sign, err := signing.ForBundle(signing.Dir{FS: keys}, root)
	if err != nil {
		return nil, err
	}
	if err := sign(t); err != nil {
		return nil, err
	}
	return t.ToBytes(false)
}

// A bundle in which any one byte was changed, or that ends early anywhere, is
// refused, and nothing on the device changes.
func TestDamagedBundles(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(bundleFile("hello-1.1.0.tandem"))
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(t, "")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	before := d.sides()
	name := filepath.Join(d.dir, "bad.tandem")
	try := func(what string, data []byte, codes ...int) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		o := d.run("install", name)
		if !slices.Contains(codes, o.exit) || !strings.Contains(o.stderr, "tandem: "+name+": ") || !matches(o.stderr, "(?m)^hint: ") {
			t.Errorf("%s: %s\nwant exit %d and a message that names the bundle", what, o, codes)
		}
		if diff := before.differences(d.sides(), unchanged); len(diff) > 0 {
			t.Fatalf("%s: the sides changed: %q", what, diff)
		}
	}
	// A change to the signature or to a key's name leaves a bundle that is
	// well formed, but signed by nobody.
	const samples = 60
	for i := range samples {
		at := i * len(good) / samples
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (i % 8)
		try(fmt.Sprintf("bit %d of byte %d of %d", i%8, at, len(good)), bad, 20, 24)
	}
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 1536, len(good) / 3, len(good) / 2, len(good) - 2048, len(good) - 1024, len(good) - 512, len(good) - 1} {
		try(fmt.Sprintf("the first %d of %d bytes", n, len(good)), good[:n], 24)
	}
	try("a byte more", append(bytes.Clone(good), 0), 24)
	try("twice", append(bytes.Clone(good), good...), 24)
	d.must("install", bundleFile("hello-1.1.0.tandem"))
}
