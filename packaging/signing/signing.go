// Package signing makes and reads the private keys of a publisher. Only
// tandem-release may import it: what a device carries cannot sign.
package signing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
)

// Sentinels of this package.
var (
	// ErrExists says that there is a key already, which is never overwritten.
	ErrExists = errors.New("key exists already")
	// ErrKey says that a file holds no key that can be used here.
	ErrKey = errors.New("not a usable key")
)

const (
	keyBlock = "PRIVATE KEY" // PKCS#8
	maxKey   = 64 << 10
)

// Roles gives the roles that a repository has keys for.
func Roles() []string {
	return []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
}

func fileName(role string) string { return role + ".pem" }

// Generate makes a key for each role in dir: ed25519, PKCS#8 in PEM, readable
// by its owner only. random is where the keys' secrets come from.
//
// If there is a key for any role nothing is changed and the error wraps
// ErrExists. After success all keys are durable. After another error or a
// power cut some of them may be there, each whole, and a ".tmp" file.
func Generate(dir fsys.FS, random io.Reader) error {
	for _, role := range Roles() {
		switch _, err := dir.Lstat(fileName(role)); {
		case err == nil:
			return fmt.Errorf("%s: %w", dir.Path(fileName(role)), ErrExists)
		case !fsys.IsNotExist(err):
			return err
		}
	}
	for _, role := range Roles() {
		if err := generate(dir, fileName(role), random); err != nil {
			return err
		}
	}
	return dir.SyncDir(".")
}

func generate(dir fsys.FS, name string, random io.Reader) error {
	_, key, err := ed25519.GenerateKey(random)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	tmp := name + ".tmp"
	if err := dir.Remove(tmp); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	f, err := dir.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = dir.Link(tmp, name) // unlike rename it never replaces a key
	}
	if e := dir.Remove(tmp); err == nil {
		err = e
	}
	return err
}

// Key is a private key.
type Key struct {
	private ed25519.PrivateKey
}

// Load reads the key of a role from dir. The error wraps ErrKey if the file
// is there but cannot be used; it never holds anything of the key.
func Load(dir fsys.FS, role string) (*Key, error) {
	name := fileName(role)
	data, err := fsys.ReadFile(dir, name, maxKey)
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", role, err)
	}
	key, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dir.Path(name), ErrKey, err)
	}
	return key, nil
}

func parse(data []byte) (*Key, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block in it")
	}
	switch block.Type {
	case keyBlock:
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is encrypted: expected an unencrypted ed25519 key in PKCS#8")
	case "PUBLIC KEY":
		return nil, errors.New("it is a public key: expected a private one")
	default:
		return nil, fmt.Errorf("it holds a %.40q: expected an ed25519 key in PKCS#8 (%s)", block.Type, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its PKCS#8 content cannot be read")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a key of type %T: expected ed25519", parsed)
	}
	return &Key{private: private}, nil
}

// Signer gives what signs TUF metadata with the key.
func (k *Key) Signer() (signature.Signer, error) { return signature.LoadED25519Signer(k.private) }

// Public gives the key's public half as TUF metadata has it.
func (k *Key) Public() (*metadata.Key, error) { return metadata.KeyFromPublicKey(k.private.Public()) }

// Dir is a directory of keys. It reads a key when that is asked for: the root
// key need not be there to publish.
type Dir struct {
	FS fsys.FS
}

// Signer gives what signs for a role.
func (d Dir) Signer(role string) (signature.Signer, error) {
	key, err := Load(d.FS, role)
	if err != nil {
		return nil, err
	}
	return key.Signer()
}
