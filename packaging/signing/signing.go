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
	"slices"

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
	// ErrPassphrase says that an encrypted key has no passphrase, or another one.
	ErrPassphrase = errors.New("no passphrase that opens the key")
)

const (
	keyBlock       = "PRIVATE KEY"           // PKCS#8
	encryptedBlock = "ENCRYPTED PRIVATE KEY" // PKCS#8 with PBES2
	publicBlock    = "PUBLIC KEY"            // PKIX
	maxKey         = 64 << 10
)

// Roles returns the roles that a repository has keys for.
func Roles() []string {
	return []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
}

func fileName(role string) string   { return role + ".pem" }
func publicName(role string) string { return role + ".pub" }

// GenerateOptions say which keys Generate makes.
type GenerateOptions struct {
	Roles      []string // nil means Roles()
	Passphrase []byte   // encrypts the keys; empty leaves them as they are
}

// Generate makes a key for each role in dir: ed25519, PKCS#8 in PEM, readable
// by its owner only. random is where the keys' secrets come from. A key that is to be
// encrypted never reaches the disk in another form.
//
// If there is a key for any role nothing is changed and the error wraps
// ErrExists. After success all keys are durable. After another error or a
// power cut some of them may be there, each whole, and a ".tmp" file.
func Generate(dir fsys.FS, random io.Reader, o GenerateOptions) error {
	if o.Roles == nil {
		o.Roles = Roles()
	}
	for _, role := range o.Roles {
		if !slices.Contains(Roles(), role) {
			return fmt.Errorf("role %.40q: expected root, targets, snapshot or timestamp", role)
		}
		switch _, err := dir.Lstat(fileName(role)); {
		case err == nil:
			return fmt.Errorf("%s: %w", dir.Path(fileName(role)), ErrExists)
		case !fsys.IsNotExist(err):
			return err
		}
	}
	for _, role := range o.Roles {
		if err := generate(dir, fileName(role), random, o.Passphrase); err != nil {
			return err
		}
	}
	return dir.SyncDir(".")
}

func generate(dir fsys.FS, name string, random io.Reader, passphrase []byte) error {
	_, key, err := ed25519.GenerateKey(random)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	block, err := encode(key, passphrase)
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
	_, err = f.Write(pem.EncodeToMemory(block))
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

// privateKey is a private key.
type privateKey struct {
	private ed25519.PrivateKey
}

// Format keeps the key out of whatever is printed, with whatever verb.
func (privateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "a private key") }

// load reads the key of a role. The error wraps ErrKey if the file is there but
// cannot be used; it never holds anything of the key.
func (d Dir) load(role string) (*privateKey, error) {
	name := fileName(role)
	data, err := fsys.ReadFile(d.FS, name, maxKey)
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", role, err)
	}
	key, err := d.parse(d.FS.Path(name), data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.FS.Path(name), ErrKey, err)
	}
	return key, nil
}

func (d Dir) parse(name string, data []byte) (*privateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block in it")
	}
	switch block.Type {
	case keyBlock:
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("its PKCS#8 content cannot be read")
		}
		return usable(parsed)
	case encryptedBlock:
		return d.open(name, block.Bytes)
	case publicBlock:
		return nil, errors.New("it is a public key: expected a private one")
	}
	return nil, fmt.Errorf("it holds a %.40q: expected an ed25519 key in PKCS#8 (%s)", block.Type, keyBlock)
}

func usable(parsed any) (*privateKey, error) {
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a key of type %T: expected ed25519", parsed)
	}
	return &privateKey{private: private}, nil
}

// signer returns what signs TUF metadata with the key.
func (k *privateKey) signer() (signature.Signer, error) {
	return signature.LoadED25519Signer(k.private)
}

// public returns the key's public half as TUF metadata has it.
func (k *privateKey) public() (*metadata.Key, error) {
	return metadata.KeyFromPublicKey(k.private.Public())
}

// Dir is a directory of keys. It reads a key when that is asked for: the root
// key need not be there to publish.
type Dir struct {
	FS fsys.FS
	// Passphrase opens encrypted keys; nil means that there is none.
	Passphrase Passphrase
}

// Signer returns what signs for a role.
func (d Dir) Signer(role string) (signature.Signer, error) {
	key, err := d.load(role)
	if err != nil {
		return nil, err
	}
	return key.signer()
}

// Signers returns what Signer gives, as the only one.
func (d Dir) Signers(role string) ([]signature.Signer, error) {
	s, err := d.Signer(role)
	if err != nil {
		return nil, err
	}
	return []signature.Signer{named{s, d.FS.Path(fileName(role))}}, nil
}

// named is a signer that messages can name.
type named struct {
	signature.Signer
	file string
}

func (n named) String() string { return n.file }

// Format keeps the key out of whatever is printed.
func (n named) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, n.file) }
