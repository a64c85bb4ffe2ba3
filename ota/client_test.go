package ota

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tandem/ota/internal/webtest"
)

// guest is what a server saw of who asked.
type guest struct {
	authorization string
	certificates  int
	requests      int
}

// tlsServer starts a server with a certificate of its own, and gives who
// vouches for it.
func tlsServer(t *testing.T, config *tls.Config, answer http.HandlerFunc) (*httptest.Server, *x509.CertPool, *guest) {
	t.Helper()
	g := &guest{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		g.requests++
		g.authorization = req.Header.Get("Authorization")
		if req.TLS != nil {
			g.certificates = len(req.TLS.PeerCertificates)
		}
		if answer != nil {
			answer(w, req)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s, pool, g
}

// certificate makes one for a client.
func certificate(t *testing.T) *tls.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func ask(t *testing.T, o ClientOptions, url string) error {
	t.Helper()
	client := NewClient(o)
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func TestOwnAuthorities(t *testing.T) {
	s, pool, _ := tlsServer(t, nil, nil)
	if err := ask(t, ClientOptions{CAs: pool}, s.URL); err != nil {
		t.Errorf("vouched for: %v", err)
	}
	var unknown x509.UnknownAuthorityError
	if err := ask(t, ClientOptions{}, s.URL); !errors.As(err, &unknown) {
		t.Errorf("by the system's authorities: error %v", err)
	}
	if err := ask(t, ClientOptions{CAs: x509.NewCertPool()}, s.URL); !errors.As(err, &unknown) {
		t.Errorf("by another authority: error %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		s, pool, _ := tlsServer(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}, nil)
		if err := ask(t, ClientOptions{CAs: pool}, s.URL); (err == nil) != ok {
			t.Errorf("%s: error %v", tls.VersionName(version), err)
		}
	}
}

func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Credentials
		want guest
	}{
		{"none", Credentials{}, guest{requests: 1}},
		{"token", Credentials{Token: "hunter2"}, guest{"Bearer hunter2", 0, 1}},
		{"user", Credentials{User: "gate-17", Password: "hunter2"}, guest{"Basic Z2F0ZS0xNzpodW50ZXIy", 0, 1}},
		{"certificate", Credentials{Certificate: certificate(t)}, guest{"", 1, 1}},
		{"certificate and token", Credentials{Certificate: certificate(t), Token: "hunter2"}, guest{"Bearer hunter2", 1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, pool, g := tlsServer(t, &tls.Config{ClientAuth: tls.RequestClientCert}, nil)
			o := ClientOptions{CAs: pool, Origin: s.URL + "/hello", Credentials: tt.c}
			if err := ask(t, o, s.URL+"/hello/metadata/timestamp.json"); err != nil {
				t.Fatal(err)
			}
			if *g != tt.want {
				t.Errorf("the server saw %+v, want %+v", *g, tt.want)
			}
			if shown := fmt.Sprintf("%v %+v %#v", o, o, o); strings.Contains(shown, "hunter2") {
				t.Errorf("shown: %s", shown)
			}
		})
	}
}

// A server may send a device elsewhere, but not its credentials: not to another
// host, nor to another port of the same.
func TestCredentialsStayAtHome(t *testing.T) {
	elsewhere, _, g := tlsServer(t, &tls.Config{ClientAuth: tls.RequestClientCert}, nil)
	home, pool, _ := tlsServer(t, nil, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, elsewhere.URL+"/x", http.StatusFound)
	})
	pool.AddCert(elsewhere.Certificate())
	for _, c := range []Credentials{
		{Token: "hunter2"}, {User: "gate-17", Password: "hunter2"}, {Certificate: certificate(t)},
	} {
		*g = guest{}
		if err := ask(t, ClientOptions{CAs: pool, Origin: home.URL, Credentials: c}, home.URL); err != nil {
			t.Fatal(err)
		}
		if *g != (guest{requests: 1}) {
			t.Errorf("the other server saw %+v", *g)
		}
		// An origin that cannot be read is nobody's.
		*g = guest{}
		if err := ask(t, ClientOptions{CAs: pool, Origin: "%", Credentials: c}, elsewhere.URL); err != nil {
			t.Fatal(err)
		}
		if *g != (guest{requests: 1}) {
			t.Errorf("without an origin the server saw %+v", *g)
		}
	}
}

func TestServerOf(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://host/a", "https://HOST:443/b", true},
		{"http://host/a", "http://host:80/", true},
		{"https://host", "http://host", false},
		{"https://host", "https://host:8443", false},
		{"https://host", "https://host.example.com", false},
		{"https://[::1]/", "https://[::1]:443/", true},
		{"https://user:pw@host/", "https://host/", true},
	} {
		a := must[*http.Request](t)(http.NewRequest(http.MethodGet, tt.a, nil))
		b := must[*http.Request](t)(http.NewRequest(http.MethodGet, tt.b, nil))
		if got := serverOf(a.URL) == serverOf(b.URL); got != tt.same {
			t.Errorf("%s and %s: the same %t, want %t", tt.a, tt.b, got, tt.same)
		}
	}
}

// A device that is not let in is told where to look.
func TestNotLetIn(t *testing.T) {
	p := newPublisher(t)
	s := webtest.New(t, p.files)
	d := newDevice(t, s, p)
	s.Misbehave(status("/metadata/timestamp.json", http.StatusUnauthorized))
	var problem *Problem
	if _, err := d.check(); !errors.As(err, &problem) || !errors.Is(err, ErrUnreachable) || !strings.Contains(problem.Hint(), "token_file") {
		t.Errorf("error %v, hint %q", err, problem.Hint())
	}
}
