package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair makes a certificate and its key, as PEM.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func put(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAccess(t *testing.T) {
	cert, key := pair(t)
	s := Source{
		CA: put(t, cert, 0o644), ClientCert: put(t, cert, 0o644), ClientKey: put(t, key, 0o600),
		TokenFile: put(t, " hunter2\n", 0o640), User: "gate", PasswordFile: put(t, "tr0ub4dor & 3\n", 0o600),
	}
	a, err := s.Access()
	if err != nil {
		t.Fatal(err)
	}
	if a.CAs == nil || a.Certificate == nil || string(a.Token) != "hunter2" || a.User != "gate" || string(a.Password) != "tr0ub4dor & 3" {
		t.Errorf("access %+v", a)
	}
	if len(a.Warnings) != 0 {
		t.Errorf("warnings %q", a.Warnings)
	}
	if a, err := (Source{}).Access(); err != nil || a.CAs != nil || a.Certificate != nil || a.Token != "" || a.Password != "" {
		t.Errorf("nothing asked for: %+v, %v", a, err)
	}
}

// A secret that every user may read is used, and told of.
func TestOpenSecrets(t *testing.T) {
	cert, key := pair(t)
	s := Source{ClientCert: put(t, cert, 0o644), ClientKey: put(t, key, 0o644), TokenFile: put(t, "hunter2", 0o604)}
	a, err := s.Access()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"source.client_key: " + s.ClientKey + " may be read by every user of the device (mode 0644): expected 0600",
		"source.token_file: " + s.TokenFile + " may be read by every user of the device (mode 0604): expected 0600",
	}
	if strings.Join(a.Warnings, "\n") != strings.Join(want, "\n") {
		t.Errorf("warnings %q", a.Warnings)
	}
}

// However it is printed, a secret is not shown.
func TestSecretsAreNotShown(t *testing.T) {
	a := Access{Token: "hunter2", Password: "hunter2"}
	encoded, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{string(encoded), fmt.Sprintf("%v %+v %#v %s %q %x", a, a, a, a.Token, a.Token, a.Token)} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e746572") || !strings.Contains(s, hidden) {
			t.Errorf("shown: %s", s)
		}
	}
}

func TestUnusableAccess(t *testing.T) {
	cert, key := pair(t)
	_, other := pair(t)
	for _, tt := range []struct {
		name   string
		source Source
		says   string
	}{
		{"no such file", Source{TokenFile: "/nowhere/token"}, "/nowhere/token: source.token_file: no such file or directory"},
		{"directory", Source{TokenFile: t.TempDir()}, ": source.token_file: is not a file"},
		{"empty", Source{TokenFile: put(t, " \n", 0o600)}, ": source.token_file: is empty: expected one line"},
		{"two lines", Source{PasswordFile: put(t, "a\nhunter2\n", 0o600)}, ": source.password_file: holds more than one line, or a control character: expected one line"},
		{"long", Source{PasswordFile: put(t, strings.Repeat("x", maxSecret+1), 0o600)}, ": source.password_file: is longer than 16384 bytes"},
		{"no authority", Source{CA: put(t, "hello", 0o600)}, ": source.ca: holds no certificate: expected PEM"},
		{"another key", Source{ClientCert: put(t, cert, 0o600), ClientKey: put(t, other, 0o600)}, ": source.client_cert: tls: private key does not match public key"},
		{"no key", Source{ClientCert: put(t, cert, 0o600), ClientKey: "/nowhere/key"}, "/nowhere/key: source.client_key: no such file or directory"},
		{"no certificate", Source{ClientCert: put(t, key, 0o600), ClientKey: put(t, key, 0o600)}, ": source.client_cert: tls: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.source.Access()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want %s", err, tt.says)
			}
		})
	}
}

func TestBandwidth(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "1024B/s": 1024, "200KiB/s": 200 << 10, "200 KiB/s": 200 << 10, "2MiB/s": 2 << 20, "1GiB/s": 1 << 30, "10kB/s": 10_000, "3MB/s": 3_000_000, "1GB/s": 1e9,
	} {
		var got int64 = -1
		if err := bandwidth(&got)(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}
