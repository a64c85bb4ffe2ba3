package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"tandem/internal/testprograms"
	"testing"
	"time"
)

// publication is a repository with releases of an application of many files.
type publication struct {
	t    *testing.T
	dir  string
	tree string
	rnd  *rand.Rand
}

func (p *publication) run(name string, args ...string) string {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(binDir, name), args...)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// write fills a file with text that compresses about as well as programs do.
func (p *publication) write(name string, size int) {
	p.t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(p.rnd.IntN(100)) / byte(1+p.rnd.IntN(5))
	}
	name = filepath.Join(p.tree, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *publication) publish(version string) {
	p.t.Helper()
	file := "app-" + version + ".tandem"
	p.run("tandem-release", "bundle", "create", p.tree, "--app", "app", "--version", version, "--compatible", "demo",
		"--frame-size", "16", "--keys", "keys", "--root", "repo/root.json", "--out", file)
	p.run("tandem-release", "repo", "add", "repo", file, "--keys", "keys")
}

// newPublication publishes 1.0.0: two programs and many small files.
func newPublication(t *testing.T) *publication {
	p := &publication{t: t, dir: t.TempDir(), rnd: rand.New(rand.NewPCG(3, 3))}
	p.tree = filepath.Join(p.dir, "tree")
	p.write("bin/one", 300_000)
	p.write("bin/two", 200_000)
	for i := range 120 {
		p.write(fmt.Sprintf("share/%03d", i), 1000+p.rnd.IntN(2000))
	}
	p.run("tandem-release", "keygen", "--out", "keys")
	p.run("tandem-release", "repo", "init", "repo", "--keys", "keys")
	p.publish("1.0.0")
	return p
}

// change makes 1.1.0: one file in the middle is another, one is new.
func (p *publication) change() {
	p.write("share/060", 1500)
	p.write("share/new", 700)
	p.publish("1.1.0")
}

// bundle returns how long the bundle of a version is.
func (p *publication) bundle(version string) int64 {
	info, err := os.Stat(filepath.Join(p.dir, "app-"+version+".tandem"))
	if err != nil {
		p.t.Fatal(err)
	}
	return info.Size()
}

// counted is a proxy that counts what a server sends of bundles, and may put
// itself before it.
type counted struct {
	*httptest.Server
	bytes, requests atomic.Int64
}

func newCounted(t *testing.T, target string, between func(http.Handler) http.Handler) *counted {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	var h http.Handler = &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(u) },
		ErrorLog: nil,
	}
	if between != nil {
		h = between(h)
	}
	c := &counted{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/targets/") {
			c.requests.Add(1)
			w = &counting{w, c}
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(c.Close)
	return c
}

type counting struct {
	http.ResponseWriter
	c *counted
}

func (w *counting) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.c.bytes.Add(int64(n))
	return n, err
}

func (w *counting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serving starts a web server for the repository and returns its URL; "" where
// the machine does not have it.
func serving(t *testing.T, p *publication, kind string) string {
	repo := filepath.Join(p.dir, "repo")
	address := testprograms.FreeAddress(t, "127.0.0.1")
	_, port, _ := net.SplitHostPort(address)
	var cmd *exec.Cmd
	switch kind {
	case "repo serve":
		cmd = exec.Command(filepath.Join(binDir, "tandem-release"), "repo", "serve", repo, "--listen", address)
	case "python":
		python, err := exec.LookPath("python3")
		if err != nil {
			return ""
		}
		cmd = exec.Command(python, "-m", "http.server", "--bind", "127.0.0.1", "--directory", repo, port)
	case "nginx":
		nginx, err := exec.LookPath("nginx")
		if err != nil {
			return ""
		}
		dir := t.TempDir()
		config := filepath.Join(dir, "nginx.conf")
		text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s; root %[3]s; }
}
`, dir, address, repo)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(nginx, "-c", config, "-p", dir)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return "http://" + address
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s does not answer", kind)
	return ""
}

// appDevice is a device that runs 1.0.0 of the publication.
func appDevice(t *testing.T, p *publication, source, agent string) *unit {
	t.Helper()
	d := newDevice(t, "")
	config := strings.ReplaceAll(deviceConfig, `"hello"`, `"app"`)
	config = strings.Replace(config, "[agent]\n", "[agent]\n"+agent, 1)
	root, err := os.ReadFile(filepath.Join(p.dir, "repo/root.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"tandem.toml": config + "\n[source]\nurl = \"" + source + "\"\n", "root.json": string(root)} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.must("install", filepath.Join(p.dir, "app-1.0.0.tandem"))
	return d
}

// holds checks that both sides have what was published last.
func (d *unit) holds(p *publication, version string) {
	d.t.Helper()
	for _, side := range []string{"system", "usr_data"} {
		tag, err := os.ReadFile(filepath.Join(d.dir, side, "app_ver.txt"))
		if err != nil || string(tag) != version+"\n" {
			d.t.Errorf("%s has %q, %v; want %s", side, tag, err, version)
		}
		if out, err := exec.Command("diff", "-r", p.tree, filepath.Join(d.dir, side, "apps")).CombinedOutput(); err != nil {
			d.t.Errorf("%s: %s", side, out)
		}
	}
}

type offered struct {
	Available bool
	Size      int64
	Form      string
	Download  int64
}

func (d *unit) offered() (o offered) {
	d.t.Helper()
	out := d.run("check", "--json")
	if err := json.Unmarshal([]byte(out.stdout), &o); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	return o
}

// A device gets what changed, from whatever serves the repository, and says
// before what that costs. From a server that cannot send parts, or sends wrong
// ones, it gets the whole bundle, and never more than both.
func TestUpdateByFrames(t *testing.T) {
	t.Parallel()
	p := newPublication(t)
	p.change()
	size := p.bundle("1.1.0")
	bundles := func(a badAnswer) func(http.Handler) http.Handler { return forBundles(a) }
	ranged := func(a badAnswer) func(http.Handler) http.Handler {
		return bundles(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			if req.Header.Get("Range") != "" {
				a(w, req, good)
			} else {
				good.ServeHTTP(w, req)
			}
		})
	}
	header := func(change func(http.Header)) badAnswer {
		return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			rec := recorded(req, good)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			change(w.Header())
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		}
	}
	// changed lets a few first requests of a bundle pass, and then changes its bytes.
	changed := func() badAnswer {
		var n atomic.Int64
		return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			if n.Add(1) > 1 {
				garbage(w, req, good)
			} else {
				good.ServeHTTP(w, req)
			}
		}
	}
	const some = 80_000 // at most, where only what changed comes
	for _, tt := range []struct {
		name     string
		server   string
		between  func(http.Handler) http.Handler
		form     string
		most     int64 // bytes
		requests int64 // at most
	}{
		{"repo serve", "repo serve", nil, "frames", some, 6},
		{"nginx", "nginx", nil, "frames", some, 6},
		{"python, which knows no ranges", "python", nil, "bundle", 2*size + some, 3},
		// What a server had sent before the device hung up counts, too.
		{"a proxy that answers 200", "repo serve", ranged(whole), "bundle", 2*size + some, 3},
		{"a proxy that sends another range", "repo serve", ranged(otherRange), "bundle", size + some, 6},
		{"weak tags that change", "repo serve", bundles(header(func(h http.Header) { h.Set("ETag", fmt.Sprintf(`W/"%d"`, rand.Int())) })), "frames", some, 6},
		{"no tags", "repo serve", bundles(header(func(h http.Header) { h.Del("ETag") })), "frames", some, 6},
		{"a gzip that lies", "repo serve", ranged(header(func(h http.Header) { h.Set("Content-Encoding", "gzip") })), "bundle", size + some, 6},
		{"parts that are not right", "repo serve", ranged(garbage), "bundle", size + some, 8},
		{"replaced halfway", "repo serve", ranged(changed()), "frames", size + 3*some, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := serving(t, p, tt.server)
			if server == "" {
				t.Skipf("%s is not here", tt.server)
			}
			c := newCounted(t, server, tt.between)
			d := appDevice(t, p, c.URL, "")
			o := d.offered()
			if !o.Available || o.Form != tt.form || o.Size != size {
				t.Errorf("on offer: %+v, want %s of %d bytes", o, tt.form, size)
			}
			asked := c.bytes.Load()
			d.must("update")
			d.holds(p, "1.1.0")
			cost := c.bytes.Load() - asked
			t.Logf("%d bytes to ask, %d told, %d came, %d requests; the bundle has %d", asked, o.Download, cost, c.requests.Load(), size)
			if c.bytes.Load() > tt.most || c.requests.Load() > tt.requests {
				t.Errorf("%d bytes in %d requests, want at most %d in %d", c.bytes.Load(), c.requests.Load(), tt.most, tt.requests)
			}
			if tt.most == some && cost != o.Download {
				t.Errorf("%d bytes came, %d were told", cost, o.Download)
			}
			if left, _ := filepath.Glob(filepath.Join(d.dir, "state/downloads/*.frames")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Where a file was damaged after the device had looked what it lacks, its frame
// is fetched when the release is installed.
func TestFrameThatTurnsOutToBeNeeded(t *testing.T) {
	t.Parallel()
	p := newPublication(t)
	p.change()
	c := newCounted(t, serving(t, p, "repo serve"), nil)
	d := appDevice(t, p, c.URL, "")
	// The hook runs when what is lacking was fetched.
	hook := filepath.Join(d.dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nrm system/apps/share/010 usr_data/apps/share/010\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	config, err := os.OpenFile(filepath.Join(d.dir, "tandem.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(config, "\n[hooks]\npre_install = [\"/bin/sh\", \"-c\", \"cd %s && ./hook\"]\n", d.dir)
	config.Close()
	d.must("update")
	d.holds(p, "1.1.0")
	if n := c.bytes.Load(); n > p.bundle("1.1.0")/2 {
		t.Errorf("%d bytes came", n)
	}
}

// [agent] max_download bounds what a release may cost, over both forms.
func TestMaxDownload(t *testing.T) {
	t.Parallel()
	p := newPublication(t)
	p.change()
	server := serving(t, p, "repo serve")
	none := newCounted(t, server, forBundles(whole))
	d := appDevice(t, p, none.URL, "max_download = \"100kB\"\n")
	out := d.run("update")
	if out.exit == 0 || !strings.Contains(out.stderr, "more bytes than may be downloaded") || !strings.Contains(out.stderr, "hint: raise max_download") {
		t.Errorf("without ranges: %s", out)
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "state/downloads/*.part")); len(left) > 0 {
		t.Errorf("the whole bundle was begun: %v", left)
	}
	c := newCounted(t, server, nil)
	d = appDevice(t, p, c.URL, "max_download = \"100kB\"\n")
	d.must("update")
	d.holds(p, "1.1.0")
}
