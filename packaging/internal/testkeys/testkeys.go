// Package testkeys makes keys and roots for tests, the same ones each time.
package testkeys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key gives the key of that name.
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

// Keys is a directory of keys: role "targets" is signed by the key of the name
// it maps to, or of the name of the role.
type Keys map[string]string

// Signer gives what signs for a role.
func (k Keys) Signer(role string) (signature.Signer, error) {
	if name, ok := k[role]; ok {
		role = name
	}
	return signature.LoadED25519Signer(Key(role))
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

// Root gives a root.json.
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
			key, err := metadata.KeyFromPublicKey(Key(name).Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := root.Signed.AddKey(key, role); err != nil {
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
