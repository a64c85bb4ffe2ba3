package signing

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
)

// answers gives a Passphrase that tells its answers one after the other.
func answers(asked *[]string, list ...string) Passphrase {
	return func(file string, attempt int) ([]byte, error) {
		*asked = append(*asked, fmt.Sprintf("%s %d", filepath.Base(file), attempt))
		if attempt == len(list) {
			return nil, ErrPassphrase
		}
		return []byte(list[attempt]), nil
	}
}

func TestEncrypted(t *testing.T) {
	dir := t.TempDir()
	if err := Generate(open(t, dir), rand.Reader, GenerateOptions{Roles: []string{"targets"}, Passphrase: []byte("open sesame")}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "targets.pem"))
	if err != nil || !bytes.HasPrefix(raw, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----")) {
		t.Fatalf("%s, %v", raw, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "targets.pem")); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("leaves %v, want one key", names)
	}
	if _, err := (Dir{FS: open(t, dir)}).load("targets"); !errors.Is(err, ErrPassphrase) || !errors.Is(err, ErrKey) {
		t.Errorf("without a passphrase: error %v", err)
	}
	var asked []string
	ring := NewRing(answers(&asked, "wrong", "", "open sesame"), open(t, dir))
	for range 2 { // the second time nothing is asked
		if s, err := ring.Signers("targets"); err != nil || len(s) != 1 {
			t.Fatalf("%v, %v", s, err)
		}
	}
	if got := strings.Join(asked, ", "); got != "targets.pem 0, targets.pem 1, targets.pem 2" {
		t.Errorf("asked %s", got)
	}
	_, err = NewRing(answers(&asked, "wrong"), open(t, dir)).Signers("targets")
	if !errors.Is(err, ErrPassphrase) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong passphrase: error %v", err)
	}
	// Damage is an error and no more.
	block, _ := pem.Decode(raw)
	for i := 0; i < len(block.Bytes); i += 3 {
		if i > 40 && i < len(block.Bytes)-30 && i%12 != 0 {
			continue // each try costs a key derivation
		}
		bad := bytes.Clone(block.Bytes)
		bad[i] ^= 0x55
		if i < 60 { // lengths and names; the derivation's cost, which comes later, stays
			_, _ = decrypt(bad[:len(bad)-i], nil)
		}
		if _, err := decrypt(bad[:i], []byte("open sesame")); err == nil {
			t.Errorf("cut at byte %d: opened", i)
		}
	}
}

func TestRing(t *testing.T) {
	a, b, none := t.TempDir(), t.TempDir(), t.TempDir()
	for dir, roles := range map[string][]string{a: {"root", "targets"}, b: {"root"}} {
		if err := Generate(open(t, dir), rand.Reader, GenerateOptions{Roles: roles}); err != nil {
			t.Fatal(err)
		}
	}
	ring := NewRing(nil, open(t, a), open(t, none), open(t, b))
	for role, want := range map[string]int{"root": 2, "targets": 1} {
		if s, err := ring.Signers(role); err != nil || len(s) != want {
			t.Errorf("%s: %d signers, %v; want %d", role, len(s), err, want)
		}
	}
	if _, err := ring.Signers("snapshot"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(a, "snapshot.pem")) {
		t.Errorf("no key: error %v", err)
	}
	if _, err := NewRing(nil).Signers("root"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: error %v", err)
	}

	// The public half says the same as the key.
	name, err := Dir{FS: open(t, b)}.WritePublic("root", open(t, none))
	if err != nil || name != filepath.Join(none, "root.pub") {
		t.Fatalf("%s, %v", name, err)
	}
	keys, err := ring.Public("root", b, none+"/")
	if err != nil || len(keys) != 2 || keys[0].Value.PublicKey != keys[1].Value.PublicKey || keys[0].Type != metadata.KeyTypeEd25519 {
		t.Errorf("public halves %v, %v", keys, err)
	}
	if err := os.WriteFile(name, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Public("root", none); !errors.Is(err, ErrKey) {
		t.Errorf("garbage: error %v, want ErrKey", err)
	}
	if _, err := ring.Public("snapshot", a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: error %v", err)
	}
}

// Nothing that is printed shows a key.
func TestNeverPrinted(t *testing.T) {
	dir := t.TempDir()
	if err := Generate(open(t, dir), bytes.NewReader(bytes.Repeat([]byte("secret seed 32 bytes long, or so"), 64)), GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	key, err := (Dir{FS: open(t, dir)}).load("root")
	if err != nil {
		t.Fatal(err)
	}
	ring := NewRing(nil, open(t, dir))
	signers, err := ring.Signers("root")
	if err != nil {
		t.Fatal(err)
	}
	seed := key.private.Seed()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{key, ring, signers, signers[0]} {
			text := fmt.Sprintf(format, v)
			for _, secret := range []string{string(seed), fmt.Sprintf("%x", seed[:8]), strings.Trim(fmt.Sprint(seed[:8]), "[]")} {
				if strings.Contains(text, secret) {
					t.Errorf("%s of %T shows the key", format, v)
				}
			}
		}
	}
}

// A power cut leaves the old public half, the new one, or none.
func TestWritePublicPowerCut(t *testing.T) {
	from := t.TempDir()
	if err := Generate(open(t, from), rand.Reader, GenerateOptions{Roles: []string{"root"}}); err != nil {
		t.Fatal(err)
	}
	var err error
	for at, disk := range cuts(func(fs fsys.FS) { _, err = Dir{FS: open(t, from)}.WritePublic("root", fs) }) {
		_, e := NewRing(nil, disk).Public("root", disk.Path("."))
		if e != nil && !errors.Is(e, fs.ErrNotExist) || err == nil && e != nil {
			t.Fatalf("%s (%v): %v", at, err, e)
		}
	}
}
