package page

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"tandem/internal/testprograms"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// from is a client that comes from an address of loopback.
func from(ip string) *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{
		Transport:     &http.Transport{DialContext: d.DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// cookies are those that the browser has of the page.
func (b *tab) cookies() []*network.Cookie {
	b.t.Helper()
	c, err := chromedp.Call(b.ctx, network.GetCookies, network.GetCookiesParams{URLs: []string{b.url + "/"}})
	check(b.t, err)
	return c.Cookies
}

// A page of another program on the same device, and one of another name for it, give no
// orders in the name of who is logged in, see nothing, and cannot use the cookie.
func TestOtherPages(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	var mu sync.Mutex
	var stolen string
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if c := r.Header.Get("Cookie"); c != "" {
			stolen = c
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<title>evil</title><iframe id="frame" src="%[1]s/"></iframe>
<form id="form" method="post" action="%[1]s/do/update"></form>
<form id="upload" method="post" action="%[1]s/do/install" enctype="multipart/form-data"><input name="csrf"></form>
<script>
const tries = [];
for (const how of [{}, {method: "POST"}, {method: "POST", mode: "no-cors"}])
	for (const path of ["/", "/now", "/do/update", "/do/cancel", "/login"])
		tries.push(fetch("%[1]s" + path, {credentials: "include", ...how}).then(async r => r.type + await r.text(), e => "failed"));
const all = Promise.all(tries);
</script>`, d.url)
	}))
	defer evil.Close()

	b := newTab(t, d.url, true)
	b.logIn(fullPassword)
	b.do("the other page", chromedp.Navigate(evil.URL))
	for _, got := range evaluate[[]string](b, "all") {
		if got != "failed" && got != "opaque" {
			t.Errorf("the other page saw %q", got)
		}
	}
	if seen, err := tryEvaluate[string](b, "document.getElementById('frame').contentDocument?.body?.innerText ?? ''"); err != nil || strings.Contains(seen, "Sides") {
		t.Errorf("in a frame: %q, %v", seen, err)
	}
	for _, form := range []string{"form", "upload"} {
		b.do("the other page", chromedp.Navigate(evil.URL))
		b.do("post", chromedp.Evaluate[chromedp.Void]("document.getElementById('"+form+"').submit()"))
		eventually(t, "a refusal", func() error { return contains(b.body(), "refused: this order does not come from the page itself") })
	}
	b.do("another name", chromedp.Navigate(strings.Replace(d.url, "127.0.0.1", "rebound.example", 1)+"/"))
	if err := contains(b.body(), "this is not the name of the page"); err != nil {
		t.Error(err)
	}
	b.open("/")
	if id, text := b.newest(); id != "" {
		t.Errorf("an order was given: %s", text)
	}

	// The browser gave the cookie away, as it belongs to all ports of a host.
	mu.Lock()
	defer mu.Unlock()
	if !strings.HasPrefix(stolen, "tandem-") {
		t.Fatalf("the other page got the cookie %q: this test shows nothing", stolen)
	}
	for ip, in := range map[string]bool{"127.0.0.1": true, "127.0.0.2": false} {
		r, err := http.NewRequest("GET", d.url+"/", nil)
		check(t, err)
		r.Header.Set("Cookie", stolen)
		resp, err := from(ip).Do(r)
		check(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		check(t, err)
		if got := strings.Contains(string(body), `id="sides"`); got != in {
			t.Errorf("with the cookie, from %s: in: %t, want %t", ip, got, in)
		}
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
	}
}

// Whoever guesses, sends nothing, or never comes to an end, is turned away; the page goes
// on for others.
func TestRudeVisitors(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	b := newTab(t, d.url, true)
	b.logIn(fullPassword)

	guesser := from("127.0.0.3")
	statuses := map[int]int{}
	for range 12 {
		r, err := http.NewRequest("POST", d.url+"/login", strings.NewReader(url.Values{"password": {"a guess at it"}}.Encode()))
		check(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", d.url)
		resp, err := guesser.Do(r)
		check(t, err)
		resp.Body.Close()
		statuses[resp.StatusCode]++
	}
	if statuses[http.StatusUnauthorized] > 6 || statuses[http.StatusTooManyRequests] < 6 {
		t.Errorf("guesses were answered by %v", statuses)
	}

	// Connections that say nothing, or begin and say no more.
	address := strings.TrimPrefix(d.url, "http://")
	dial := func(ip string) net.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).Dial("tcp", address)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	var open []net.Conn
	for i := range 14 {
		c := dial("127.0.0.4")
		fmt.Fprint(c, []string{"", "G", "GET / HTTP/1.1\r\nHost: " + address + "\r\nX-Slow: ", "POST /login HTTP/1.1\r\nHost: " + address + "\r\nOrigin: " + d.url + "\r\nContent-Length: 100\r\n\r\npass"}[i%4])
		open = append(open, c)
	}

	// An upload that stops, from somebody who is logged in.
	cookie := b.cookies()[0]
	body, w := io.Pipe()
	form := multipart.NewWriter(w)
	sent := make(chan error, 1)
	go func() {
		r, err := http.NewRequest("POST", d.url+"/do/install", body)
		if err == nil {
			r.Header.Set("Content-Type", form.FormDataContentType())
			r.Header.Set("Origin", d.url)
			r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
			var resp *http.Response
			if resp, err = from("127.0.0.1").Do(r); err == nil {
				err = resp.Body.Close()
			}
		}
		sent <- err
	}()
	csrf := evaluate[string](b, "document.querySelector('[name=csrf]').value")
	check(t, form.WriteField("csrf", csrf))
	part, err := form.CreateFormFile("bundle", "x")
	check(t, err)
	begun, err := http.Dir(bundles).Open("hello-3.0.0.tandem")
	check(t, err)
	defer begun.Close()
	_, err = io.CopyN(part, begun, 1<<20)
	check(t, err) // and nothing more

	b.shows("#now .tasks", "under way")
	b.open("/") // it is there for others
	for _, c := range open {
		check(t, c.SetReadDeadline(time.Now().Add(atLast)))
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("a connection that says nothing: %v", err)
		}
	}
	b.shows("#now .tasks .bad", "Install")
	<-sent
	check(t, d.runs("1.0.0"))
	if left := d.leavings(); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	b.open("/")
	if got := b.order("check"); !strings.Contains(got, "done") {
		t.Errorf("the next order: %s", got)
	}
}

// By TLS the cookie is one that no other origin can set, and the certificate is the one
// that was given.
func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gate-17"}, DNSNames: []string{"rebound.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	d := newDevice(t, "certificate = \"page.crt\"\nkey = \"page.key\"\n", func(d *device) {
		d.write("page.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		d.write("page.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	})
	address := strings.TrimPrefix(d.url, "http://")
	d.url = "https://" + address
	for _, host := range []string{"127.0.0.1", "rebound.example"} { // both are the certificate's
		b := newTab(t, strings.Replace(d.url, "127.0.0.1", host, 1), true)
		b.logIn(fullPassword)
		for _, c := range b.cookies() {
			if !strings.HasPrefix(c.Name, "__Host-tandem-") || !c.Secure || !c.HTTPOnly || c.SameSite != network.CookieSameSiteStrict {
				t.Errorf("the cookie is %+v", c)
			}
		}
		if got := b.order("check"); !strings.Contains(got, "done") {
			t.Errorf("check: %s", got)
		}
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", address)
	check(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	if answer, _ := io.ReadAll(c); strings.Contains(string(answer), "Password") {
		t.Errorf("without TLS: %s", answer)
	}
}

// Beyond loopback the device makes a certificate of its own, whose fingerprint it prints:
// it is the one that a browser gets, also after the agent was started again.
func TestOwnCertificate(t *testing.T) {
	t.Parallel()
	addrs, err := net.InterfaceAddrs()
	check(t, err)
	seen := 0
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || !ip.IsPrivate() && !strings.HasPrefix(ip.String(), "192.0.2.") {
			continue
		}
		seen++
		t.Run(ip.String(), func(t *testing.T) {
			listen := testprograms.FreeAddress(t, ip.String())
			d := newDevice(t, "", func(d *device) {
				d.replace(strings.TrimPrefix(d.url, "http://"), listen)
				if !ip.IsPrivate() {
					d.replace("[page]\n", "[page]\npublic = true\n")
				}
				d.url = "https://" + listen
			})
			printed := strings.TrimSpace(d.tandem("", "page", "fingerprint"))
			check(t, contains(d.read("agent.log"), printed))
			for range 2 {
				c, err := tls.Dial("tcp", listen, &tls.Config{InsecureSkipVerify: true})
				check(t, err)
				sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].Raw)
				c.Close()
				if shown := strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":"); shown != printed {
					t.Errorf("the certificate is %s, printed is %s", shown, printed)
				}
				b := newTab(t, d.url, true)
				b.logIn(fullPassword)
				if got := b.order("check"); !strings.Contains(got, "done") {
					t.Errorf("check: %s", got)
				}
				b.quiet()
				d.kill()
				d.launch()
			}
		})
	}
	if seen == 0 {
		t.Skip("this machine has no address but loopback's")
	}
}
