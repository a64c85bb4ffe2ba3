// Command fleet has many devices poll one web server, in one process, with the
// code that devices run and the schedule of the agent, and tells what a device
// costs the server. Time is not waited for: the polls come one after another in
// the order in which they would.
//
// The server is nginx, where it is installed, else Go's own; both on loopback.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent"
	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/trust"
	"tandem/versioning"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.IntVar(&o.devices, "devices", 1000, "how many devices")
	flag.DurationVar(&o.poll, "poll", time.Hour, "[agent] poll of each")
	flag.DurationVar(&o.idle, "idle", 6*time.Hour, "how long they poll after their start")
	flag.Uint64Var(&o.seed, "seed", 0, "what the random moments come from; 0 chooses one")
	flag.Parse()
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

type options struct {
	devices    int
	poll, idle time.Duration
	seed       uint64
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "tandem-fleet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	repo := filepath.Join(dir, "repo")
	if err := publish(ctx, dir, repo); err != nil {
		return err
	}
	s, err := serve(ctx, dir, repo)
	if err != nil {
		return err
	}
	defer s.end()
	f := &fleet{o: o, url: s.url, dir: dir, random: rand.New(rand.NewPCG(o.seed, 0)), began: time.Now(), log: logrus.New()}
	f.log.SetOutput(io.Discard)
	if f.root, err = os.ReadFile(filepath.Join(repo, "root.json")); err != nil {
		return err
	}
	fmt.Printf("%d devices, %s, %s; poll = %s; seed %d; per device:\n\n", o.devices, s.name, "a repository with 10 releases", o.poll, o.seed)

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\trequests\tsent\tanswered\tof it bodies\tas the device counts\t")
	f.start()
	for _, phase := range []struct {
		name  string
		visit func(context.Context, *device) error
		until time.Duration // of fake time; 0: once each
	}{
		{"first poll, nothing known", f.check, 0},
		{"download of the release", f.fetch, 0},
		{"idle", f.check, o.idle},
	} {
		polls, err := f.phase(ctx, phase.visit, phase.until)
		if err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		log, err := s.requests()
		if err != nil {
			return err
		}
		n := float64(o.devices)
		if phase.until > 0 {
			n = float64(polls)
			phase.name = fmt.Sprintf("an idle poll, of %.1f in %s", n/float64(o.devices), o.idle)
		}
		fmt.Fprintf(table, "%s\t%.2f\t%.0f B\t%.0f B\t%.0f B\t%.0f B\t\n", phase.name, float64(log.requests)/n,
			float64(log.received)/n, float64(log.sent)/n, float64(log.bodies)/n, float64(f.received)/n)
		f.received = 0
		if log.requests == 0 {
			return errors.New("the server has seen nobody")
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	f.printSpread()
	return nil
}

// publish makes a repository with tandem-release, with releases of an application
// of some size.
func publish(ctx context.Context, dir, repo string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "tandem-release"), "tandem/cmd/tandem-release")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build tandem-release: %w\n%s", err, out)
	}
	release := func(args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "tandem-release"), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("tandem-release %q: %w\n%s", args, err, out)
		}
		return nil
	}
	app := filepath.Join(dir, "app")
	data := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{})
	errs := []error{os.Mkdir(app, 0o755), release("keygen", "--out", "keys"), release("repo", "init", repo, "--keys", "keys")}
	for n := range 10 {
		version := fmt.Sprintf("1.%d.0", n)
		_, _ = random.Read(data) // it has no error to give
		errs = append(errs,
			os.WriteFile(filepath.Join(app, "hello"), data, 0o755),
			release("bundle", "create", "app", "--app", "hello", "--version", version, "--compatible", "demo",
				"--keys", "keys", "--root", filepath.Join(repo, "root.json"), "--out", version+".tandem"),
			release("repo", "add", repo, version+".tandem", "--keys", "keys"))
	}
	return errors.Join(errs...)
}

// fleet is the devices, and when each of them asks next.
type fleet struct {
	o        options
	url, dir string
	root     []byte
	random   *rand.Rand
	log      *logrus.Logger
	began    time.Time
	queue    queue
	first    []time.Duration
	received int64 // bytes of bodies, since the last phase
}

// device is what a device keeps between polls.
type device struct {
	id      string
	state   string
	at      time.Duration // of the next poll, since the start
	version versioning.Version
	offer   *ota.Offer
}

type queue []*device

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(d any)        { *q = append(*q, d.(*device)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// start switches all devices on in the same moment.
func (f *fleet) start() {
	for n := range f.o.devices {
		id := fmt.Sprintf("device-%04d", n)
		d := &device{id: id, state: filepath.Join(f.dir, "devices", id), at: agent.FirstPoll(f.o.poll, f.random.Float64())}
		f.first = append(f.first, d.at)
		heap.Push(&f.queue, d)
	}
}

// phase has the devices come, in their order: each once, or until the time is
// over. It says how often they came.
func (f *fleet) phase(ctx context.Context, visit func(context.Context, *device) error, until time.Duration) (int, error) {
	if until == 0 {
		for _, d := range slices.SortedFunc(slices.Values(f.queue), func(a, b *device) int { return cmp.Compare(a.at, b.at) }) {
			if err := visit(ctx, d); err != nil {
				return 0, fmt.Errorf("%s: %w", d.id, err)
			}
		}
		return len(f.queue), nil
	}
	for _, d := range f.queue { // the first poll was the phase before
		d.at += agent.NextPoll(f.o.poll, 0, f.random.Float64())
	}
	heap.Init(&f.queue)
	polls := 0
	for f.queue[0].at < until {
		d := f.queue[0]
		if err := visit(ctx, d); err != nil {
			return polls, fmt.Errorf("%s after %s: %w", d.id, d.at, err)
		}
		polls++
		d.at += agent.NextPoll(f.o.poll, 0, f.random.Float64())
		heap.Fix(&f.queue, 0)
	}
	return polls, nil
}

// with opens the source as the agent does for each poll.
func (f *fleet) with(d *device, use func(*ota.Repo) error) error {
	if err := os.MkdirAll(d.state, 0o755); err != nil {
		return err
	}
	disk, err := fsys.OpenOS(d.state)
	if err != nil {
		return err
	}
	defer disk.Close()
	root, err := trust.ParseRoot(f.root)
	if err != nil {
		return err
	}
	client := ota.NewClient(ota.ClientOptions{UserAgent: "tandem/0", Received: func(n int) { f.received += int64(n) }, Origin: f.url})
	defer client.CloseIdleConnections()
	downloads, err := download.New(download.Options{FS: disk, Client: client, Log: f.log})
	if err != nil {
		return err
	}
	repo, err := ota.NewRepo(ota.RepoOptions{
		URL: f.url, Client: client, Store: ota.OpenStore(disk, root, f.log), Log: f.log, Downloads: downloads,
		Now: func() time.Time { return f.began.Add(d.at) },
	})
	if err != nil {
		return err
	}
	return use(repo)
}

// check polls.
func (f *fleet) check(ctx context.Context, d *device) error {
	return f.with(d, func(repo *ota.Repo) error {
		listing, err := repo.List(ctx)
		if err != nil {
			return err
		}
		dec, err := listing.Choose(ota.Device{ID: d.id, App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: d.version})
		if err == nil && d.version.IsZero() && dec.Best == nil {
			err = errors.New("there is no release for it")
		}
		d.offer = dec.Best
		return err
	})
}

// fetch downloads what the poll found.
func (f *fleet) fetch(ctx context.Context, d *device) error {
	return f.with(d, func(repo *ota.Repo) error {
		file, err := repo.Fetch(ctx, *d.offer, nil)
		if err != nil {
			return err
		}
		d.version = d.offer.Release.Version
		return os.Remove(file)
	})
}

// printSpread shows when the first polls come.
func (f *fleet) printSpread() {
	const parts = 12
	var counts [parts]int
	perSecond := map[time.Duration]int{}
	most := 0
	for _, at := range f.first {
		counts[min(parts-1, int(parts*at/f.o.poll))]++
		s := at.Truncate(time.Second)
		perSecond[s]++
		most = max(most, perSecond[s])
	}
	fmt.Printf("\nfirst polls after all devices start at once, at most %d in a second:\n", most)
	for i, n := range counts {
		fmt.Printf("%8s  %4d  %s\n", time.Duration(i)*f.o.poll/parts, n, strings.Repeat("#", n*40*parts/max(1, 2*f.o.devices)))
	}
}

// server is a web server on loopback.
type server struct {
	name, url string
	end       func()
	requests  func() (traffic, error) // since it was asked last
}

// traffic is in bytes.
type traffic struct{ requests, received, sent, bodies int64 }

func serve(ctx context.Context, dir, repo string) (*server, error) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		fmt.Println("nginx is not installed: Go's own server takes its place, which counts bodies only")
		return serveGo(repo)
	}
	return serveNginx(ctx, nginx, dir, repo)
}

const nginxConfig = `daemon off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
%[4]s
events { worker_connections 1024; }
http {
	log_format traffic '$status $request_length $bytes_sent $body_bytes_sent';
	access_log %[1]s/access.log traffic;
	client_body_temp_path %[1]s/temp;
	proxy_temp_path %[1]s/temp;
	fastcgi_temp_path %[1]s/temp;
	uwsgi_temp_path %[1]s/temp;
	scgi_temp_path %[1]s/temp;
	server {
		listen 127.0.0.1:%[3]d;
		root %[2]s;
		etag on;
		location = /metadata/timestamp.json { add_header Cache-Control "no-cache"; }
		location / { add_header Cache-Control "public, max-age=31536000, immutable"; }
	}
}
`

func serveNginx(ctx context.Context, nginx, dir, repo string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, dir, repo, port, user), 0o644); err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, nginx, "-v").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("nginx -v: %w\n%s", err, version)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{name: strings.TrimSpace(strings.TrimPrefix(string(version), "nginx version: ")), url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	s.end = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it was told to
	}
	for began := time.Now(); ; {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			break
		}
		if time.Since(began) > 10*time.Second {
			s.end()
			return nil, fmt.Errorf("nginx does not answer: %w\n%s", err, said.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
	var offset int64
	s.requests = func() (traffic, error) { return readLog(filepath.Join(dir, "access.log"), &offset) }
	return s, nil
}

// readLog adds up the lines of nginx' log from offset on.
func readLog(name string, offset *int64) (traffic, error) {
	var t traffic
	f, err := os.Open(name)
	if err != nil {
		return t, err
	}
	defer f.Close()
	if _, err := f.Seek(*offset, io.SeekStart); err != nil {
		return t, err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		*offset += int64(len(lines.Bytes())) + 1
		var n [4]int64
		for i, field := range strings.Fields(lines.Text()) {
			if n[min(i, 3)], err = strconv.ParseInt(field, 10, 64); err != nil {
				return t, fmt.Errorf("%s: %q: %w", name, lines.Text(), err)
			}
		}
		t.requests++
		t.received += n[1]
		t.sent += n[2]
		t.bodies += n[3]
	}
	return t, lines.Err()
}

// serveGo serves with Go's file server, with entity tags, which it has none of
// by itself.
func serveGo(repo string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var t traffic
	files := http.FileServer(http.Dir(repo))
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, err := os.Stat(filepath.Join(repo, filepath.FromSlash(r.URL.Path))); err == nil {
			w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
		}
		c := &counting{ResponseWriter: w}
		files.ServeHTTP(c, r)
		mu.Lock()
		defer mu.Unlock()
		t.requests++
		t.bodies += c.n
	})}
	go h.Serve(l) // until it is closed
	return &server{
		name: "Go's http.FileServer", url: "http://" + l.Addr().String(), end: func() { h.Close() },
		requests: func() (traffic, error) {
			mu.Lock()
			defer mu.Unlock()
			got := t
			t = traffic{}
			return got, nil
		},
	}, nil
}

type counting struct {
	http.ResponseWriter
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}
