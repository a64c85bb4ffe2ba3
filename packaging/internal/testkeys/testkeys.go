// Package testkeys makes keys and roots for tests, the same ones each time.
package testkeys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key returns the key of that name.
func Key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Sign adds signatures of the named keys to meta.
func Sign[T metadata.Roles](t testing.TB, meta *metadata.Metadata[T], names ...string) {
	t.Helper()
	for _, name := range names {
		signer, err := signature.LoadED25519Signer(Key(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := meta.Sign(signer); err != nil {
			t.Fatal(err)
		}
	}
}

// Keys is a directory of keys: role "targets" is signed by the keys whose
// names, separated by spaces, it maps to, or by that of the name of the role.
type Keys map[string]string

// Signers returns what signs for a role.
func (k Keys) Signers(role string) ([]signature.Signer, error) {
	names := role
	if n, ok := k[role]; ok {
		names = n
	}
	var signers []signature.Signer
	for _, name := range strings.Fields(names) {
		s, err := signature.LoadED25519Signer(Key(name))
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("%s key: %w", role, fs.ErrNotExist)
	}
	return signers, nil
}

// Public returns the public half of the key of that name as TUF metadata has it.
func Public(t testing.TB, name string) *metadata.Key {
	t.Helper()
	key, err := metadata.KeyFromPublicKey(Key(name).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RootSpec says what a root is like. A role without keys has the key of its name.
type RootSpec struct {
	Version   int64
	Expires   time.Time
	Keys      map[string][]string // by role
	Threshold map[string]int      // by role; 1 if not named
	SignedBy  []string            // "root" if empty
}

// Far is later than any reference time of a test.
var Far = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)

// Root returns a root.json.
func Root(t testing.TB, s RootSpec) []byte {
	t.Helper()
	if s.Expires.IsZero() {
		s.Expires = Far
	}
	root := metadata.Root(s.Expires)
	root.Signed.Version = max(s.Version, 1)
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		names := s.Keys[role]
		if names == nil {
			names = []string{role}
		}
		for _, name := range names {
			if err := root.Signed.AddKey(Public(t, name), role); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Threshold[role]; n > 0 {
			root.Signed.Roles[role].Threshold = n
		}
	}
	if s.SignedBy == nil {
		s.SignedBy = []string{metadata.ROOT}
	}
	Sign(t, root, s.SignedBy...)
	raw, err := root.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(raw)
}
