package hawkbit

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// groups are the runs of the recording, by the numbers in it.
var groups = []struct {
	name        string
	first, last int
}{
	{"auth", 1, 14}, {"polling and attributes", 15, 69}, {"set-up", 70, 89}, {"download and links", 90, 139},
	{"every execution and finish", 140, 319}, {"feedback fields and limits", 320, 359},
	{"close, clock, soft, time-forced, download-only", 360, 419}, {"cancel, supersede, force quit", 420, 579},
	{"polling time, confirmation, maintenance window", 580, 679}, {"rollout", 680, 719},
	{"quotas, toggles, automatic assignment, invalidation, installedBase", 720, 779}, {"window opens and ends", 900, 949},
	{"another server", 950, 969}, {"details, autoclose, header authentication, weights", 970, 1099},
	{"clocks, ranges, installedBase", 1100, 1179},
}

// byChance are answers that the real server gives in another way each time.
var byChance = map[int]string{
	356: "the order of the messages within one status",
}

func groupOf(n int) string {
	for _, g := range groups {
		if g.first <= n && n <= g.last {
			return g.name
		}
	}
	return "none"
}

// replay is a stand-in under test, and what was seen of its answers.
type replay struct {
	server *Server
	now    time.Time
	tags   map[string]string // recorded entity tags, and ours
	sha1   string            // of our rootfs.img
	chance []float64         // random numbers, as a server drew them
}

func newReplay(o Options) *replay {
	r := &replay{chance: []float64{0.196, 0.484, 0.2045, 0.063}, tags: map[string]string{}, sha1: newArtifact(0, "", rootfs(), time.Time{}).sha1}
	o.Now = func() time.Time { return r.now }
	o.Random = func() float64 {
		r.chance = append(r.chance[1:], r.chance[0])
		return r.chance[len(r.chance)-1]
	}
	o.GatewayToken = "gateway-secret"
	r.server = New(o)
	return r
}

// TestReplay asks the stand-in what a real server was asked, and compares.
func TestReplay(t *testing.T) {
	f, err := os.Open("testdata/exchanges.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := ReadExchanges(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 900 {
		t.Fatalf("%d exchanges: expected the whole recording", len(all))
	}
	first := newReplay(Options{})
	other := newReplay(Options{TenantOnly: true, ForwardedHeaders: true})
	failed := map[string][]string{}
	played := map[string]int{}
	for _, e := range all {
		r := first
		if strings.Contains(e.URL, ":8181/") {
			r = other
		}
		played[groupOf(e.Number)]++
		r.now = e.At.Add(500 * time.Millisecond) // seconds are recorded
		r.prepare(t, e.Number)
		if diff := r.play(t, e); diff != "" && byChance[e.Number] == "" {
			failed[groupOf(e.Number)] = append(failed[groupOf(e.Number)], fmt.Sprintf("%d %s: %s %s\n%s", e.Number, e.Name, e.Method, e.URL, diff))
		}
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			if played[g.name] == 0 {
				t.Error("nothing is recorded of it")
			}
			for _, f := range failed[g.name] {
				t.Error(f)
			}
		})
	}
}

// prepare does what the recording leaves out.
func (r *replay) prepare(t *testing.T, number int) {
	t.Helper()
	switch number {
	case 724: // the feedbacks that fill an action's history
		a := r.server.actions[55]
		for a != nil && len(a.history) < maxStatuses {
			r.ask(t, "POST", "http://127.0.0.1:8180/DEFAULT/controller/v1/q1/deploymentBase/55/feedback",
				[]string{"Authorization: TargetToken t-q1", "Content-Type: application/json"},
				`{"status":{"execution":"proceeding","result":{"finished":"none"},"details":["x"]}}`)
		}
	case 1100:
		r.server.Skip("action")
		r.server.config["pollingTime"] = "00:00:45"
	}
}

var (
	formFile    = regexp.MustCompile(`file=@(?:"([^"]+)"|(\S+(?: \S+\.\S+)?))(?: sha1sum=(\S+))?`)
	dishEntity  = regexp.MustCompile(`"[0-9a-f]{33}"`)
	shaOfRootfs = "39d8461ab4283afd06e71d77ff6fc424ddd39948"
)

// play asks one thing, and tells in what the answers differ.
func (r *replay) play(t *testing.T, e Exchange) string {
	t.Helper()
	for i, h := range e.Header {
		e.Header[i] = dishEntity.ReplaceAllStringFunc(h, func(tag string) string {
			if ours := r.tags[e.URL]; ours != "" {
				return ours
			}
			return tag
		})
		e.Header[i] = strings.ReplaceAll(e.Header[i], shaOfRootfs, r.sha1)
	}
	resp := r.ask(t, e.Method, e.URL, e.Header, e.Body)
	if tag := resp.Header().Get("Etag"); tag != "" {
		r.tags[e.URL] = tag
	}
	got, err := Normalise(e.Method, e.URL, resp.Code, resp.Header().Get, resp.Body.Bytes())
	if err != nil {
		return err.Error()
	}
	return cmp.Diff(show(e.Answer), show(got))
}

func show(a Answer) []string {
	lines := append([]string{fmt.Sprint(a.Status)}, a.Header...)
	if a.Length > 0 {
		lines = append(lines, fmt.Sprintf("%d bytes", a.Length))
	}
	for part := range strings.SplitSeq(string(a.JSON), ",") {
		lines = append(lines, part)
	}
	return lines
}

// rootfs is the file of three million bytes that the recording speaks of.
func rootfs() []byte { return bytes.Repeat([]byte("rootfs"), 500_000) }

func (r *replay) ask(t *testing.T, method, to string, header []string, body string) *httptest.ResponseRecorder {
	t.Helper()
	var content bytes.Buffer
	kind := ""
	if m := formFile.FindStringSubmatch(body); m != nil && strings.HasSuffix(to, "/artifacts") || strings.Contains(to, "/artifacts?filename=") {
		kind = writeForm(t, &content, m[1]+m[2], m[3])
	} else if slices.Contains(header, "Content-Encoding: gzip") {
		zip := gzip.NewWriter(&content)
		if _, err := zip.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
		if err := zip.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		content.WriteString(body)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(method, to, &content)
	req.Host = u.Host
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		if k == "Host" {
			req.Host = v
		}
		req.Header[textproto.CanonicalMIMEHeaderKey(k)] = []string{v}
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if strings.Contains(to, "/rest/v1/") {
		req.SetBasicAuth(AdminUser, AdminPassword)
	}
	w := httptest.NewRecorder()
	r.server.ServeHTTP(w, req)
	return w
}

func writeForm(t *testing.T, w *bytes.Buffer, name, sha1 string) string {
	t.Helper()
	m := multipart.NewWriter(w)
	part, err := m.CreateFormFile("file", name)
	if err != nil {
		t.Fatal(err)
	}
	content := rootfs()
	switch name {
	case "small file+1.txt":
		content = []byte("hello hawkbit\n")
	case "empty.bin":
		content = nil
	}
	if _, err := part.Write(content); err != nil {
		t.Fatal(err)
	}
	if sha1 != "" {
		if err := m.WriteField("sha1sum", sha1); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return m.FormDataContentType()
}

var _ http.Handler = (*Server)(nil)
