package page

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"tandem/internal/config"
)

// fingerprint is what a browser shows of a certificate: SHA-256, in pairs of digits.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// certificate returns the one that the configuration names, or else the page's own, which
// is made where there is none for this address.
func certificate(c config.Page, state string, random io.Reader) (tls.Certificate, error) {
	if c.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return cert, fmt.Errorf("%s: %w", c.Certificate, err)
		}
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
		return cert, err
	}
	return ownCertificate(c.Listen.Addr(), state, random)
}

// ownCertificate returns the certificate that the device made for the page at an address,
// and makes it, durably, where there is none. It lies in page.pem in the agent's state,
// mode 0600, with its key. Whoever asks while it is made gets that one.
func ownCertificate(addr netip.Addr, state string, random io.Reader) (tls.Certificate, error) {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return tls.Certificate{}, err
	}
	one := flock.New(state, flock.SetFlag(os.O_RDONLY))
	if err := one.Lock(); err != nil {
		return tls.Certificate{}, err
	}
	defer one.Close()
	file := filepath.Join(state, "page.pem")
	data, err := os.ReadFile(file)
	if err == nil {
		cert, err := tls.X509KeyPair(data, data)
		if err == nil {
			cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
		}
		if err == nil && (addr.IsUnspecified() || cert.Leaf.VerifyHostname(addr.WithZone("").String()) == nil) {
			return cert, nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if data, err = makeCertificate(addr, random); err != nil {
		return tls.Certificate{}, err
	}
	if err := writePrivate(file, data); err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(data, data)
	if err == nil {
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	}
	return cert, err
}

// makeCertificate makes a certificate that vouches for itself. Its dates suit a device
// without a clock.
func makeCertificate(addr netip.Addr, random io.Reader) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "Tandem"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, DNSNames: []string{"tandem.invalid"},
	}
	if !addr.IsUnspecified() {
		t.IPAddresses = []net.IP{addr.WithZone("").AsSlice()}
	}
	der, err := x509.CreateCertificate(random, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

// CertificateOf returns the fingerprint of the certificate that the page shows, which is
// made where it is the device's own and missing.
func CertificateOf(c config.Page, state string, random io.Reader) (string, error) {
	cert, err := certificate(c, state, random)
	if err != nil {
		return "", err
	}
	return fingerprint(cert.Certificate[0]), nil
}
