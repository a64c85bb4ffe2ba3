package signing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
)

// Passphrase tells the passphrase of the key in file. It is asked again with
// the next attempt, counted from 0, as long as its answers do not open the key;
// an error ends that, and should wrap ErrPassphrase.
type Passphrase func(file string, attempt int) ([]byte, error)

// encryption is PBES2 as other tools know it. scrypt has the strongest cost
// that OpenSSL reads within its own memory limit.
func encryption() *pkcs8.Opts {
	return &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 5},
	}
}

// encode returns a key as PKCS#8, encrypted if there is a passphrase.
func encode(key ed25519.PrivateKey, passphrase []byte) (*pem.Block, error) {
	if len(passphrase) == 0 {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return &pem.Block{Type: keyBlock, Bytes: der}, err
	}
	der, err := pkcs8.MarshalPrivateKey(key, passphrase, encryption())
	return &pem.Block{Type: encryptedBlock, Bytes: der}, err
}

// open decrypts a key.
func (d Dir) open(file string, der []byte) (*privateKey, error) {
	if d.Passphrase == nil {
		return nil, fmt.Errorf("it is encrypted: %w", ErrPassphrase)
	}
	for attempt := 0; ; attempt++ {
		passphrase, err := d.Passphrase(file, attempt)
		if err != nil {
			return nil, fmt.Errorf("it is encrypted: %w", err)
		}
		if len(passphrase) == 0 {
			continue
		}
		switch parsed, err := decrypt(der, passphrase); {
		case err == nil:
			return usable(parsed)
		case !errors.Is(err, ErrPassphrase):
			return nil, err
		}
	}
}

// decrypt returns the key in der. What the library says of a wrong passphrase
// and of damage is the same where the cipher cannot tell them apart.
func decrypt(der, passphrase []byte) (key any, err error) {
	defer func() {
		if recover() != nil { // an initialisation vector of a wrong length, for one
			key, err = nil, errors.New("its encrypted PKCS#8 content cannot be read")
		}
	}()
	key, _, err = pkcs8.ParsePrivateKey(der, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	return key, nil
}
