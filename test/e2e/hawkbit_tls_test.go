package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tandem/test/hawkbit"
)

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, _ = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue signs a certificate, and returns it with its key, and both in PEM.
func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, [2]string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, [2]string{
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// Before the server is a proxy that wants a certificate of each device, and tells the
// server whose it was. The device knows the proxy by an authority of its own, and shows
// its certificate there; nothing else lets it in.
func TestHawkBitCertificate(t *testing.T) {
	t.Parallel()
	h := newHawk(t, nil)
	h.check(h.op.Configure(t.Context(), map[string]any{
		"authentication.targettoken.enabled": false, "authentication.header.enabled": true, "authentication.header.authority": "devices",
	}))
	devices, strangers, servers := newAuthority(t, "devices"), newAuthority(t, "strangers"), newAuthority(t, "servers")
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a token is sent where there is none")
		}
		r.Header.Set("X-Controller-Id", r.TLS.PeerCertificates[0].Subject.CommonName)
		r.Header.Set("X-Authority", r.TLS.PeerCertificates[0].Issuer.CommonName)
		h.ServeHTTP(w, r)
	}))
	cert, key, _ := servers.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	proxy.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: devices.pool(),
	}
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail, as they should
	proxy.StartTLS()
	t.Cleanup(proxy.Close)

	d := installed(t, options{source: proxy.URL, agent: pollOften, more: "type = \"hawkbit\"\nca = \"ca.pem\"\nclient_cert = \"cert.pem\"\nclient_key = \"key.pem\"\n"})
	show := func(by *authority, name string) {
		_, _, files := by.issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		d.write("cert.pem", files[0])
		d.write("key.pem", files[1])
	}
	n := h.assign(hawkbit.Assignment{Set: h.set("1.1.0", map[string][]byte{"hello.tandem": read(t, bundle("1.1.0"))}), Type: "forced"})
	for _, c := range []struct {
		name  string
		by    *authority
		id    string
		ca    *authority
		tells string
	}{
		{"of nobody that the proxy knows", strangers, controller, servers, "no answer"},
		{"of another device", devices, "another", servers, "the server answered 401"},
		{"a proxy of nobody that the device knows", devices, controller, strangers, "certificate"},
	} {
		show(c.by, c.id)
		d.write("ca.pem", c.ca.pem())
		if o := d.run("update"); o.exit != 30 || !strings.Contains(o.stderr, c.tells) {
			t.Errorf("%s: exit %d, expected 30 and %q\n%s", c.name, o.exit, c.tells, o.stderr)
		}
	}
	show(devices, controller)
	d.write("ca.pem", servers.pem())
	d.must("update")
	if got := h.over(n, func() {}); got != "finished" {
		t.Errorf("the action is %s:\n%s", got, h.told(n))
	}
	if tag := d.read("system/app_ver.txt"); tag != "1.1.0\n" {
		t.Errorf("system has %s", tag)
	}
}
