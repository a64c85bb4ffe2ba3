package signing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
)

// Ring is the keys of several holders: for each role one key from every
// directory that has one. It opens a key once and keeps it.
type Ring struct {
	dirs []Dir
	keys map[string]*privateKey
}

// Format keeps the keys out of whatever is printed.
func (*Ring) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "private keys") }

// NewRing returns the keys in dirs, which stay the caller's to close.
func NewRing(passphrase Passphrase, dirs ...fsys.FS) *Ring {
	r := &Ring{keys: make(map[string]*privateKey)}
	for _, d := range dirs {
		r.dirs = append(r.dirs, Dir{FS: d, Passphrase: passphrase})
	}
	return r
}

// Signers returns what signs for a role: one for each directory that has a key
// of it. If none has, the error wraps fs.ErrNotExist.
func (r *Ring) Signers(role string) ([]signature.Signer, error) {
	var signers []signature.Signer
	var missing error
	for _, d := range r.dirs {
		key, err := r.load(d, role)
		if fsys.IsNotExist(err) {
			if missing == nil {
				missing = err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := key.signer()
		if err != nil {
			return nil, err
		}
		signers = append(signers, named{s, d.FS.Path(fileName(role))})
	}
	if len(signers) == 0 {
		if missing == nil {
			missing = fmt.Errorf("%s key: %w", role, fs.ErrNotExist)
		}
		return nil, missing
	}
	return signers, nil
}

func (r *Ring) load(d Dir, role string) (*privateKey, error) {
	name := d.FS.Path(fileName(role))
	if key := r.keys[name]; key != nil {
		return key, nil
	}
	key, err := d.load(role)
	if err == nil {
		r.keys[name] = key
	}
	return key, err
}

// Public returns the public half of a role's key in each of dirs, which are the
// paths of directories of the ring. It is read from what WritePublic wrote if
// that is there, so that the private key can be elsewhere.
func (r *Ring) Public(role string, dirs ...string) ([]*metadata.Key, error) {
	var keys []*metadata.Key
	for _, path := range dirs {
		i := slices.IndexFunc(r.dirs, func(d Dir) bool { return d.FS.Path(".") == filepath.Clean(path) })
		if i < 0 {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		key, err := r.public(r.dirs[i], role)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (r *Ring) public(d Dir, role string) (*metadata.Key, error) {
	name := publicName(role)
	data, err := fsys.ReadFile(d.FS, name, maxKey)
	if fsys.IsNotExist(err) {
		key, err := r.load(d, role)
		if err != nil {
			return nil, err
		}
		return key.public()
	}
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", role, err)
	}
	key, err := parsePublic(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.FS.Path(name), ErrKey, err)
	}
	return metadata.KeyFromPublicKey(key)
}

func parsePublic(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != publicBlock {
		return nil, fmt.Errorf("expected one PEM block of type %s", publicBlock)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its content cannot be read")
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("it is a key of type %T: expected ed25519", parsed)
	}
	return key, nil
}

// WritePublic writes the public half of the key of a role to out, as PEM, and
// gives the name of the file. A file that is there is replaced: it holds no secret.
//
// After success it is durable. After an error or a power cut the file is what
// it was before or what it is to be.
func (d Dir) WritePublic(role string, out fsys.FS) (string, error) {
	key, err := d.load(role)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key.private.Public())
	if err != nil {
		return "", err
	}
	name := publicName(role)
	return out.Path(name), fsys.WriteFile(out, name, pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), 0o644)
}
