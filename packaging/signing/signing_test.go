package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/packaging/bundle"
	"tandem/packaging/internal/testkeys"
	"tandem/packaging/trust"
)

func open(t *testing.T, dir string) *fsys.OS {
	t.Helper()
	o, err := fsys.OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	if err := Generate(open(t, dir), rand.Reader, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		info, err := os.Stat(filepath.Join(dir, role+".pem"))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s.pem: mode %v, error %v; want 0600", role, info.Mode(), err)
		}
		key, err := (Dir{FS: open(t, dir)}).load(role)
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.public()
		if err != nil || seen[public.Value.PublicKey] {
			t.Errorf("%s: key %v, error %v; want one of its own", role, public, err)
		}
		seen[public.Value.PublicKey] = true
	}
	names, _ := os.ReadDir(dir)
	if len(names) != 4 {
		t.Errorf("leaves %v, want four keys", names)
	}
}

func TestGenerateNeverOverwrites(t *testing.T) {
	for _, role := range Roles() {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, role+".pem"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Generate(open(t, dir), rand.Reader, GenerateOptions{})
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), role+".pem") {
			t.Errorf("%s.pem is there: error %v, want ErrExists that names it", role, err)
		}
		names, _ := os.ReadDir(dir)
		if raw, _ := os.ReadFile(filepath.Join(dir, role+".pem")); string(raw) != "precious" || len(names) != 1 {
			t.Errorf("%s.pem is there: directory is changed: %v", role, names)
		}
	}
}

// A power cut leaves whole keys or none, never half of one.
func TestGeneratePowerCut(t *testing.T) {
	var err error
	for at, disk := range cuts(func(fs fsys.FS) { err = Generate(fs, rand.Reader, GenerateOptions{}) }) {
		for _, role := range Roles() {
			if _, e := (Dir{FS: disk}).load(role); e != nil && !errors.Is(e, fs.ErrNotExist) {
				t.Fatalf("%s: %v", at, e)
			} else if e != nil && err == nil {
				t.Fatalf("%s: success without a key for %s", at, role)
			}
		}
	}
}

// cuts returns what a disk may hold after a power cut at each operation of work, and
// after none.
func cuts(work func(fsys.FS)) iter.Seq2[string, fsys.FS] {
	m := memfs.NewMachine()
	m.NewDisk("keys", memfs.Options{})
	return func(yield func(string, fsys.FS) bool) {
		for n, cut := range m.Cuts(func(m *memfs.Machine) { work(m.Disk("keys").FS()) }) {
			for _, choice := range memfs.Choices(uint64(n), 2) {
				c := cut.Clone()
				c.Restart(choice)
				if !yield(fmt.Sprintf("cut at operation %d, %s", n, choice), c.Disk("keys").FS()) {
					return
				}
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, _ := x509.MarshalPKCS8PrivateKey(ec)
	public, _ := x509.MarshalPKIXPublicKey(testkeys.Key("x").Public())
	for name, c := range map[string]struct{ in, want string }{
		"empty":      {"", "no PEM"},
		"garbage":    {"garbage", "no PEM"},
		"wrong type": {block("PRIVATE KEY", ecDER), "expected ed25519"},
		"public":     {block("PUBLIC KEY", public), "public key"},
		"encrypted":  {block("ENCRYPTED PRIVATE KEY", ecDER), "encrypted"},
		"OpenSSH":    {block("OPENSSH PRIVATE KEY", ecDER), "OPENSSH PRIVATE KEY"},
		"no PKCS#8":  {block("PRIVATE KEY", []byte("secret")), "cannot be read"},
		"too long":   {strings.Repeat("x", 1<<20), "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "targets.pem"), []byte(c.in), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := (Dir{FS: open(t, dir)}).load("targets")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "targets.pem") {
				t.Errorf("error %v, want one about targets.pem with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v shows the key", err)
			}
		})
	}
	if _, err := (Dir{FS: open(t, t.TempDir())}).load("targets"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: error %v", err)
	}
}

func TestForBundle(t *testing.T) {
	dir := t.TempDir()
	der, _ := x509.MarshalPKCS8PrivateKey(ed25519.PrivateKey(testkeys.Key("targets")))
	if err := os.WriteFile(filepath.Join(dir, "targets.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := Dir{FS: open(t, dir)}
	root, err := trust.ParseRoot(testkeys.Root(t, testkeys.RootSpec{}))
	if err != nil {
		t.Fatal(err)
	}
	sign, err := ForBundle(keys, root)
	if err != nil {
		t.Fatal(err)
	}
	m := metadata.Targets(bundle.Never())
	if err := sign(m); err != nil {
		t.Fatal(err)
	}
	if err := trust.Verify(root, metadata.TARGETS, m); err != nil {
		t.Error(err)
	}
	other, err := trust.ParseRoot(testkeys.Root(t, testkeys.RootSpec{Keys: map[string][]string{"targets": {"other"}}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ForBundle(keys, other); !errors.Is(err, ErrKey) {
		t.Errorf("a root that does not name the key: error %v, want ErrKey", err)
	}
	a, b := metadata.Targets(bundle.Never()), metadata.Targets(bundle.Never())
	if sign(a) != nil || sign(b) != nil || !bytes.Equal(a.Signatures[0].Signature, b.Signatures[0].Signature) {
		t.Error("signing twice gives two signatures")
	}
}
