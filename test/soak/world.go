package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tandem/internal/testprograms"
	"tandem/packaging/repository"
)

// published is the programs, the keys, and a repository with a release.
type published struct {
	dir, repo string
	next      int // the minor version of the next release
}

func publish(ctx context.Context, dir string) (*published, error) {
	p := &published{dir: dir, repo: filepath.Join(dir, "repo")}
	if err := testprograms.Build(dir, testprograms.Small(), "tandem/cmd/tandem", "tandem/cmd/tandem-release"); err != nil {
		return nil, err
	}
	err := errors.Join(p.release(ctx, "keygen", "--out", "keys"), p.release(ctx, "repo", "init", p.repo, "--keys", "keys", "--valid", "3650"))
	return p, errors.Join(err, p.add(ctx))
}

func (p *published) release(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, "tandem-release"), args...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tandem-release %q: %w\n%s", args, err, out)
	}
	return nil
}

// add publishes one more release.
func (p *published) add(ctx context.Context) error {
	version := fmt.Sprintf("1.%d.0", p.next)
	p.next++
	app := filepath.Join(p.dir, "app")
	return errors.Join(
		os.MkdirAll(filepath.Join(app, "etc"), 0o755),
		os.WriteFile(filepath.Join(app, "hello"), []byte(strings.Repeat(version+"\n", 10000)), 0o755),
		os.WriteFile(filepath.Join(app, "etc/hello.conf"), []byte("greeting = hello\n"), 0o644),
		p.release(ctx, "bundle", "create", "app", "--app", "hello", "--version", version, "--compatible", "demo", "--config-pattern", "etc/*",
			"--keys", "keys", "--root", filepath.Join(p.repo, "root.json"), "--out", version+".tandem"),
		p.release(ctx, "repo", "add", p.repo, version+".tandem", "--keys", "keys", "--valid", "3650"))
}

// device makes the directory of a device, and gives its configuration's name.
func (p *published) device(name, url, more string) (file string, err error) {
	dir := filepath.Join(p.dir, name)
	file = filepath.Join(dir, "tandem.toml")
	text := fmt.Sprintf(`[device]
id = "soak"
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = "usr_data"
[trust]
root = %q
[source]
url = %q
[report]
url = %q
[hooks]
health = ["true"]
[agent]
state = "state"
lock = "lock"
socket = "socket"
%s
`, filepath.Join(p.repo, "root.json"), url, url+"/report", more)
	return file, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte(text), 0o644))
}

// network is a server for releases and reports that fails at random.
type network struct {
	url string

	mu     sync.Mutex
	random *rand.Rand // nil: it does not fail
	polls  int
	posts  int
	faults map[string]int
}

func newNetwork(repo string, seed uint64) (*network, func(), error) {
	root, err := os.OpenRoot(repo)
	if err != nil {
		return nil, nil, err
	}
	n := &network{random: rand.New(rand.NewPCG(seed, 1)), faults: map[string]int{}}
	good := repository.NewHandler(root)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		poll, post := strings.HasSuffix(r.URL.Path, "/timestamp.json"), r.URL.Path == "/report"
		if n.fails(w, r, good, poll, post) {
			return
		}
		if post {
			w.WriteHeader(http.StatusNoContent)
		} else {
			good.ServeHTTP(w, r)
		}
	}))
	n.url = s.URL
	return n, func() { s.CloseClientConnections(); s.Close(); root.Close() }, nil
}

// fails answers badly, now and then.
func (n *network) fails(w http.ResponseWriter, r *http.Request, good http.Handler, poll, post bool) bool {
	n.mu.Lock()
	if poll {
		n.polls++
	}
	if post {
		n.posts++
	}
	kind := ""
	if n.random != nil && n.random.IntN(5) == 0 {
		kind = []string{"reset", "503", "wait", "garbage", "half"}[n.random.IntN(5)]
		n.faults[kind]++
	}
	n.mu.Unlock()
	switch kind {
	case "":
		return false
	case "reset":
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	case "503":
		http.Error(w, "no", http.StatusServiceUnavailable)
	case "wait":
		w.Header().Set("Retry-After", "1") // a download waits in real time
		http.Error(w, "later", http.StatusTooManyRequests)
	case "garbage":
		fmt.Fprint(w, "<html>please log in</html>")
	case "half":
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()+1))
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		panic(http.ErrAbortHandler)
	}
	return true
}

// sample is what a process holds.
type sample struct {
	Goroutines, Descriptors int
	Memory                  int64 // bytes
}

// least gives the least of each: what work needs for a moment is no leak.
func (s sample) least(o sample) sample {
	if s == (sample{}) {
		return o
	}
	return sample{min(s.Goroutines, o.Goroutines), min(s.Descriptors, o.Descriptors), min(s.Memory, o.Memory)}
}

// grown says what has grown by more than chance explains.
func (s sample) grown(since sample) error {
	var errs []error
	if s.Goroutines > since.Goroutines+2 {
		errs = append(errs, fmt.Errorf("goroutines: %d at first, %d at last", since.Goroutines, s.Goroutines))
	}
	if s.Descriptors > since.Descriptors+2 {
		errs = append(errs, fmt.Errorf("descriptors: %d at first, %d at last", since.Descriptors, s.Descriptors))
	}
	if most := since.Memory + since.Memory/4 + 1<<20; s.Memory > most {
		errs = append(errs, fmt.Errorf("memory: %d KiB at first, %d at last", since.Memory>>10, s.Memory>>10))
	}
	return errors.Join(errs...)
}

func descriptors(pid string) (int, error) {
	all, err := os.ReadDir("/proc/" + pid + "/fd")
	return len(all), err
}

// pause waits, or ends with ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
