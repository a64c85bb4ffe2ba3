package page

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
	g "maragu.dev/gomponents"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/config"
	"tandem/internal/text"
	"tandem/versioning"
)

const (
	fullPassword = "the full password"
	lookPassword = "the look password"
	markup       = `<script>alert(1)</script>`
)

// fakeAPI stands for the agent's interface.
type fakeAPI struct {
	mu     sync.Mutex
	orders []string
	body   int64
	err    error
	reads  int64 // at most, of a body; 0 for all
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/status":
		io.WriteString(w, `{"in_step":true,"sides":{"system":{"path":"/`+markup+`","state":"intact","version":"1.0.0","files":1},"usr_data":{"detail":"`+markup+`"}},"pending":null,"revoked":[]}`)
	case "/v1/agent":
		io.WriteString(w, `{"doing":"`+markup+`","step":"idle","progress":{"what":"`+markup+`","done":1,"total":2}}`)
	case "/v1/log":
		io.WriteString(w, `{"lines":[{"n":1,"level":"info","text":"`+markup+`"}]}`)
	case "/v1/history":
		io.WriteString(w, `{"events":[{"id":"a-1","time":"2026-01-01T00:00:00Z","command":"install","action":"installed","reason":"`+markup+`"},{"id":"a-2","time":"2026-01-02T00:00:00Z","command":"update","error":"no luck"}]}`)
	case "/v1/aside":
		io.WriteString(w, `{"aside":[{"side":"system","path":"etc/`+markup+`","size":3,"file":"`+markup+`"}]}`)
	default:
		var body io.Reader = r.Body
		if f.reads > 0 {
			body = io.LimitReader(body, f.reads)
		}
		n, err := io.Copy(io.Discard, body)
		f.mu.Lock()
		f.orders = append(f.orders, r.Method+" "+r.URL.Path+" "+r.Header.Get(ByHeader))
		f.body, f.err = n, err
		f.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{"failure": map[string]any{"exit": 0}})
	}
}

func (f *fakeAPI) given() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.orders...)
}

type rig struct {
	*Page
	api  *fakeAPI
	url  string
	now  time.Time
	mu   sync.Mutex
	http *http.Client
}

func (r *rig) clock() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.now }
func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{api: &fakeAPI{}, now: time.Now()}
	file := filepath.Join(t.TempDir(), "password")
	// As SetPassword does, but for the cost of a guess: it takes seconds under the race detector.
	var hashes []byte
	for role, pw := range map[Role]string{Full: fullPassword, Look: lookPassword} {
		hash, err := bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		hashes = fmt.Appendf(hashes, "%s:%s\n", role, hash)
	}
	if err := os.WriteFile(file, hashes, 0o600); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	p, err := New(Options{
		Config: config.Page{Listen: netip.MustParseAddrPort("127.0.0.1:1"), PasswordFile: file}, State: t.TempDir(), API: r.api, Device: markup,
		Log: log, Now: r.clock, Random: rand.Reader, After: func(d time.Duration) (<-chan time.Time, func()) { return time.After(d), func() {} },
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.texts, err = readTexts(); err != nil {
		t.Fatal(err)
	}
	r.Page = p
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Listener.Close()
	s.Listener, s.Config = newBounded(l, p.conns, p.perPeer), p.server()
	s.Start()
	t.Cleanup(s.Close)
	r.url = s.URL
	r.http = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return r
}

// do sends a request as the page's own forms do; change may make it another.
func (r *rig) do(t *testing.T, method, path, cookie string, form url.Values, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", r.url)
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	if change != nil {
		change(req)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func (r *rig) logIn(t *testing.T, password string) (cookie, csrf string) {
	t.Helper()
	status, _, h := r.do(t, "POST", "/login", "", url.Values{"password": {password}}, nil)
	if status != http.StatusSeeOther {
		t.Fatalf("log in: %d", status)
	}
	set := h.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, want) {
			t.Errorf("the cookie %q has no %s", set, want)
		}
	}
	cookie, _, _ = strings.Cut(set, ";")
	_, body, _ := r.do(t, "GET", "/", cookie, nil, nil)
	return cookie, regexp.MustCompile(`name="csrf" value="([0-9a-f]{64})"`).FindStringSubmatch(body)[1]
}

func TestOrdersOfOthersAreRefused(t *testing.T) {
	r := newRig(t)
	cookie, csrf := r.logIn(t, fullPassword)
	lookCookie, lookCSRF := r.logIn(t, lookPassword)
	good := url.Values{"csrf": {csrf}}
	for name, c := range map[string]struct {
		cookie string
		form   url.Values
		change func(*http.Request)
	}{
		"no session":          {"", good, nil},
		"no token":            {cookie, nil, nil},
		"a token of another":  {cookie, url.Values{"csrf": {lookCSRF}}, nil},
		"no origin":           {cookie, good, func(q *http.Request) { q.Header.Del("Origin") }},
		"origin null":         {cookie, good, func(q *http.Request) { q.Header.Set("Origin", "null") }},
		"another site":        {cookie, good, func(q *http.Request) { q.Header.Set("Origin", "http://evil.example") }},
		"another port":        {cookie, good, func(q *http.Request) { q.Header.Set("Origin", "http://127.0.0.1:1") }},
		"another scheme":      {cookie, good, func(q *http.Request) { q.Header.Set("Origin", strings.Replace(r.url, "http", "https", 1)) }},
		"fetched from abroad": {cookie, good, func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "same-site") }},
		"another name": {cookie, good, func(q *http.Request) {
			q.Host = "rebound.example:" + q.URL.Port()
			q.Header.Set("Origin", "http://"+q.Host)
		}},
		"a port that is none": {cookie, good, func(q *http.Request) { q.Host = "127.0.0.1"; q.Header.Set("Origin", "http://127.0.0.1") }},
		"may only look":       {lookCookie, url.Values{"csrf": {lookCSRF}}, nil},
		"PUT":                 {cookie, good, func(q *http.Request) { q.Method = "PUT" }},
	} {
		for _, path := range []string{"/do/update", "/do/install", "/do/cancel"} {
			if status, _, _ := r.do(t, "POST", path, c.cookie, c.form, c.change); status < 400 {
				t.Errorf("%s: %s: %d", name, path, status)
			}
		}
	}
	if got := r.api.given(); len(got) > 0 {
		t.Errorf("the agent was given %q", got)
	}
	if status, _, _ := r.do(t, "POST", "/do/cancel", cookie, good, nil); status != http.StatusSeeOther {
		t.Errorf("an order of the page itself: %d", status)
	}
	if got := r.api.given(); len(got) != 1 || got[0] != "POST /v1/cancel page, 127.0.0.1" {
		t.Errorf("the agent was given %q", got)
	}
}

func TestMarkupIsText(t *testing.T) {
	r := newRig(t)
	cookie, _ := r.logIn(t, fullPassword)
	_, body, h := r.do(t, "GET", "/?words="+url.QueryEscape(markup), cookie, nil, nil)
	if strings.Contains(body, markup) || strings.Count(body, "&lt;script&gt;") < 6 {
		t.Errorf("markup is not shown as text:\n%s", body)
	}
	for name, want := range map[string]string{"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if h.Get(name) != want {
			t.Errorf("%s: %q", name, h.Get(name))
		}
	}
	total := len(body)
	for _, f := range []string{"page.css", "page.js", "texts.json"} {
		data, err := files.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		total += len(data)
	}
	if total > 60<<10 {
		t.Errorf("%d bytes: expected at most 60 KiB", total)
	}
}

// fill puts s, and what is not zero, into all that there is of v.
func fill(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), s)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), s)
		fill(v.Index(1), s)
	case reflect.Struct:
		switch x := v.Addr().Interface().(type) {
		case *time.Time:
			*x = time.Unix(1, 0)
		case *versioning.Version: // no text but a version's can be one
			*x, _ = versioning.Parse("1.0.0")
		default:
			for i := range v.NumField() {
				if f := v.Field(i); f.CanSet() {
					fill(f, s)
				}
			}
		}
	}
}

// Whatever text comes from outside, a sheet has the elements and attributes that it has with
// any other, and goes to the same places; all text can be seen.
func TestNoTextIsMarkup(t *testing.T) {
	texts, err := readTexts()
	if err != nil {
		t.Fatal(err)
	}
	// elements are those of all sheets, with what a browser acts upon.
	elements := func(s string) (all []string, shown int) {
		v := &view{}
		fill(reflect.ValueOf(v).Elem(), s)
		result, err := json.Marshal(map[string]string{"action": s, "version": s})
		if err != nil {
			t.Fatal(err)
		}
		for i := range v.Now.Tasks {
			v.Now.Tasks[i].Result = result
		}
		done := v.Now.Tasks[0]
		done.Failure = &device.Failure{}
		v.Now.Tasks = append(v.Now.Tasks, done)
		sheet := &sheet{v, texts}
		for _, n := range []g.Node{sheet.login(), sheet.failed(), sheet.page()} {
			var b bytes.Buffer
			if err := n.Render(&b); err != nil {
				t.Fatal(err)
			}
			d := xml.NewDecoder(&b)
			d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
			for {
				token, err := d.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				switch token := token.(type) {
				case xml.CharData:
					shown += strings.Count(string(token), text.Line(s))
					if path := text.Line(backup.Path(s).String()); path != text.Line(s) { // a path has its own form of some characters
						shown += strings.Count(string(token), path)
					}
					for line := range strings.Lines(string(token)) {
						if line = strings.TrimSuffix(line, "\n"); text.Line(line) != line {
							t.Errorf("%q is shown", line)
						}
					}
				case xml.StartElement:
					e := token.Name.Local
					for _, a := range token.Attr {
						e += " " + a.Name.Local
						switch {
						case a.Name.Local == "aria-label" && text.Line(a.Value) != a.Value:
							t.Errorf("%q is read out", a.Value)
						case slices.Contains([]string{"href", "src", "action", "method", "type", "style"}, a.Name.Local):
							e += "=" + a.Value
						}
					}
					all = append(all, e)
				case xml.EndElement:
					all = append(all, "/"+token.Name.Local)
				default:
					all = append(all, fmt.Sprintf("%T", token))
				}
			}
		}
		return all, shown
	}
	want, places := elements("harmless")
	if places < 60 {
		t.Fatalf("text from outside is shown at %d places only", places)
	}
	for _, s := range []string{
		markup, `"><script>alert(1)</script>`, `" onload="alert(1)`, `' onload='alert(1)`, "` onload=alert(1)", `a b=c`,
		`</title></pre></option><img src=x onerror=alert(1)>`, `<!--`, `-->`, `]]>`, `<![CDATA[`, `&lt;script&gt;`, `&quot; x=&quot;`,
		`javascript:alert(1)`, `//elsewhere.example/`, "\u202etxt.exe\u2066", "a\u200bb\ufeff", "one\ntwo\r\tthree\u009b2J", "{{.}}%s%!d",
	} {
		if got, n := elements(s); !slices.Equal(got, want) || n != places {
			t.Errorf("%q: shown at %d places, want %d; the elements are\n%q, want\n%q", s, n, places, got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	r := newRig(t)
	cookie, _ := r.logIn(t, lookPassword)
	if _, body, _ := r.do(t, "GET", "/?result=failed", cookie, nil, nil); strings.Contains(body, "<b>install</b>") || !strings.Contains(body, "no luck") {
		t.Error("the filter does not pick what failed")
	}
	if _, body, _ := r.do(t, "GET", "/?command=install", cookie, nil, nil); !strings.Contains(body, "<b>install</b>") || strings.Contains(body, "no luck") {
		t.Error("the filter does not pick a command")
	}
}

func TestSessionsEnd(t *testing.T) {
	r := newRig(t)
	inside := func(cookie string) bool {
		_, body, _ := r.do(t, "GET", "/", cookie, nil, nil)
		return strings.Contains(body, `id="sides"`)
	}
	cookie, _ := r.logIn(t, fullPassword)
	token := strings.SplitN(cookie, "=", 2)[1]
	if r.doors.find(token, "127.0.0.2:5", true) != nil {
		t.Error("a session counts from another address")
	}
	if r.doors.find(token, "127.0.0.1:5", true) == nil {
		t.Error("a session does not count from its address")
	}
	r.pass(sessionIdle - time.Second)
	r.do(t, "GET", "/now", cookie, nil, nil) // comes by itself
	r.pass(2 * time.Second)
	if inside(cookie) {
		t.Error("a session that nobody used goes on")
	}
	cookie, csrf := r.logIn(t, fullPassword)
	if r.do(t, "POST", "/logout", cookie, url.Values{"csrf": {csrf}}, nil); inside(cookie) {
		t.Error("a session goes on after it was left")
	}
	cookie, _ = r.logIn(t, fullPassword)
	if err := SetPassword(r.o.Config.PasswordFile, Full, []byte("another password")); err != nil {
		t.Fatal(err)
	}
	if inside(cookie) {
		t.Error("a session goes on after its password was changed")
	}
}

func TestGuessingIsSlow(t *testing.T) {
	r := newRig(t)
	try := func(password string) int {
		status, _, _ := r.do(t, "POST", "/login", "", url.Values{"password": {password}}, nil)
		return status
	}
	for range tries {
		if got := try("wrong password"); got != http.StatusUnauthorized {
			t.Fatalf("a wrong password: %d", got)
		}
	}
	if got := try(fullPassword); got != http.StatusTooManyRequests {
		t.Errorf("one attempt more: %d", got)
	}
	r.pass(tryEvery)
	if got := try(fullPassword); got != http.StatusSeeOther {
		t.Errorf("after a while: %d", got)
	}
	r.doors.hashing.Lock()
	r.pass(time.Hour)
	if got := try(fullPassword); got != http.StatusTooManyRequests {
		t.Errorf("while another one is hashed: %d", got)
	}
	r.doors.hashing.Unlock()
}

func TestUpload(t *testing.T) {
	r := newRig(t)
	cookie, csrf := r.logIn(t, fullPassword)
	send := func(token string, content io.Reader) int {
		body, w := io.Pipe()
		form := multipart.NewWriter(w)
		go func() {
			form.WriteField("csrf", token)
			part, _ := form.CreateFormFile("bundle", "x.tandem")
			io.Copy(part, content)
			form.Close()
			w.Close()
		}()
		req, _ := http.NewRequest("POST", r.url+"/do/install", body)
		req.Header.Set("Content-Type", form.FormDataContentType())
		req.Header.Set("Origin", r.url)
		req.Header.Set("Cookie", cookie)
		resp, err := r.http.Do(req)
		if err != nil {
			return 0 // cut while it was sent
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const size = 3 << 20
	if got := send(csrf, io.LimitReader(zeros{}, size)); got != http.StatusSeeOther || r.api.body != size {
		t.Errorf("%d, and %d bytes came", got, r.api.body)
	}
	before := len(r.api.given())
	if got := send("wrong", io.LimitReader(zeros{}, 100)); got == http.StatusSeeOther || len(r.api.given()) != before {
		t.Errorf("a wrong token: %d", got)
	}
	r.Page.pace = pace{stall: time.Hour, slack: -time.Hour, rate: 1 << 30} // whatever comes is too slow
	send(csrf, zeros{})                                                    // for ever
	if r.api.mu.Lock(); r.api.err == nil {
		t.Error("an upload without an end was not given up")
	}
	r.api.mu.Unlock()
}

// A browser sends the whole of an upload before it reads why it was refused, and has to
// find that there.
func TestRefusedUploadIsAnswered(t *testing.T) {
	r := newRig(t)
	cookie, csrf := r.logIn(t, fullPassword)
	look, lookCSRF := r.logIn(t, lookPassword)
	const size = 24 << 20 // more than what lies in buffers
	for _, c := range []struct {
		name, cookie, csrf, want string
		lock                     bool
	}{
		{"by the agent", cookie, csrf, "303 See Other", false},
		{"the session has ended", "", csrf, "The session has ended.", false},
		{"another session", cookie, lookCSRF, "this form is not of this session", false},
		{"may only look", look, lookCSRF, "this password may only look", false},
		{"another one comes", cookie, csrf, "Another bundle is being uploaded.", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.lock {
				r.keepAt.Lock()
				defer r.keepAt.Unlock()
			}
			r.api.reads = 1000
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			head := "--x\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\n" + c.csrf + "\r\n--x\r\nContent-Disposition: form-data; name=\"bundle\"; filename=\"b\"\r\n\r\n"
			const end = "\r\n--x--\r\n"
			fmt.Fprintf(conn, "POST /do/install HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nCookie: %s\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n%s",
				strings.TrimPrefix(r.url, "http://"), r.url, c.cookie, len(head)+size+len(end), head)
			if _, err := io.CopyN(conn, zeros{}, size); err != nil {
				t.Fatal("the upload is cut: ", err)
			}
			io.WriteString(conn, end)
			answer, err := io.ReadAll(io.LimitReader(conn, 64))
			more := make([]byte, 4096)
			n, _ := conn.Read(more)
			if text := string(answer) + string(more[:n]); err != nil || !strings.Contains(text, c.want) {
				t.Errorf("%v, the answer is %q, want %q", err, text, c.want)
			}
		})
	}
}

// What the page itself says is in one file, and all in it is used. Words of the agent's
// interface, such as a side's state, are shown as they come.
func TestTextsAreInOneFile(t *testing.T) {
	words := regexp.MustCompile(`\p{L}{2,}`)
	js, err := files.ReadFile("page.js")
	if err != nil {
		t.Fatal(err)
	}
	js = regexp.MustCompile(`(?m)^\s*//.*$`).ReplaceAll(js, nil)
	said := regexp.MustCompile(`[a-z]{2,},? [a-z]{2,}`)
	for _, m := range regexp.MustCompile("\"[^\"\n]*\"|'[^'\n]*'|`[^`]*`").FindAllString(string(js), -1) {
		if said.MatchString(m) && m != `"use strict"` {
			t.Errorf("page.js has the text %s", m)
		}
	}

	sources := ""
	fset := token.NewFileSet()
	for _, name := range []string{"guard.go", "render.go", "tasks.go", "upload.go", "views.go"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources += string(src)
		f, err := parser.ParseFile(fset, name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				if f, ok := c.Fun.(*ast.SelectorExpr); ok && fmt.Sprint(f.X) != "http" && slices.Contains([]string{"Info", "Warn", "Error", "Errorf"}, f.Sel.Name) {
					return false // for the log
				}
				if f, ok := c.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Text", "Aria"}, f.Sel.Name) && len(c.Args) > 0 {
					l, ok := c.Args[len(c.Args)-1].(*ast.BasicLit)
					if label, is := c.Args[0].(*ast.BasicLit); ok && is && (f.Sel.Name == "Text" || label.Value == `"label"`) &&
						words.MatchString(strings.ReplaceAll(l.Value, "Tandem", "")) {
						t.Errorf("%s: the text %s", fset.Position(l.Pos()), l.Value)
					}
				}
			}
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && said.MatchString(l.Value) &&
				!slices.Contains([]string{policy, viewport, schemes}, strings.Trim(l.Value, `"`)) {
				t.Errorf("%s: the text %s", fset.Position(l.Pos()), l.Value)
			}
			return true
		})
	}
	texts, err := readTexts()
	if err != nil {
		t.Fatal(err)
	}
	for name := range texts {
		if !strings.Contains(sources, `"`+name+`"`) {
			t.Errorf("nobody says %q of texts.json", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?:text\(|\.t\(|say\(|row\(|choice\(|order\(|fail\(w, http\.\w+, |refuse\(w, http\.\w+, )"([a-z_-]+)"`).FindAllStringSubmatch(sources, -1) {
		if texts[m[1]] == "" {
			t.Errorf("texts.json has no %q", m[1])
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestConnectionsAreBounded(t *testing.T) {
	r := newRig(t)
	addr := strings.TrimPrefix(r.url, "http://")
	for i := range maxConnsPeer {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nX: ", i) // and nothing more
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("one connection too many is answered")
	}
	s := r.server()
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 {
		t.Error("a slow visitor is never given up")
	}
}

func TestOwnCertificate(t *testing.T) {
	dir, addr := t.TempDir(), netip.MustParseAddr("192.168.1.1")
	var all [8]tls.Certificate // the agent and a command may ask at once
	var asked sync.WaitGroup
	for i := range all {
		asked.Go(func() {
			var err error
			if all[i], err = ownCertificate(addr, dir, rand.Reader); err != nil {
				t.Error(err)
			}
		})
	}
	if asked.Wait(); t.Failed() {
		return
	}
	first := all[0]
	for _, c := range all {
		if fingerprint(c.Certificate[0]) != fingerprint(first.Certificate[0]) {
			t.Error("two were made")
		}
	}
	again, err := ownCertificate(addr, dir, rand.Reader)
	if err != nil || fingerprint(again.Certificate[0]) != fingerprint(first.Certificate[0]) {
		t.Errorf("another one, %v", err)
	}
	other, err := ownCertificate(netip.MustParseAddr("10.0.0.1"), dir, rand.Reader)
	if err != nil || other.Leaf.VerifyHostname("10.0.0.1") != nil {
		t.Errorf("no new one for another address: %v", err)
	}
}
