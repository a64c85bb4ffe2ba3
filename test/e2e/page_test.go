package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	dev "tandem/agent/device"
	"tandem/backup/record"
	"tandem/internal/testprograms"
	rel "tandem/packaging/release"
	"tandem/test/hawkbit"
	"tandem/versioning"
)

// visitor is one who is logged in on the page.
type visitor struct {
	*http.Client
	t    testing.TB
	url  string
	csrf string
}

const pagePassword = "correct horse battery"

// paged is a device with 1.0.0 whose agent serves the page at address.
func paged(t *testing.T, address string) *device {
	t.Helper()
	d := newDevice(t, options{hooks: true})
	d.servePage(address)
	d.must("install", bundle("1.0.0"))
	return d
}

// servePage has the agent serve the page at address, once it is started.
func (d *device) servePage(address string) {
	d.t.Helper()
	d.write("tandem.toml", d.read("tandem.toml")+fmt.Sprintf("[page]\nlisten = %q\npassword_file = \"password\"\n", address))
	cmd := d.command(d.t.Context(), "page", "password")
	cmd.Stdin = strings.NewReader(pagePassword)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
}

func (d *device) visit(address string) *visitor {
	d.t.Helper()
	jar, err := cookiejar.New(nil)
	d.check(err)
	v := &visitor{&http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}, d.t, "http://" + address, ""}
	eventually(d.t, soon, "the log-in", func() error {
		body, err := v.post("/login", url.Values{"password": {pagePassword}})
		if m := regexp.MustCompile(`name="csrf" value="(\w+)"`).FindStringSubmatch(body); err == nil && m != nil {
			v.csrf = m[1]
			return nil
		}
		return fmt.Errorf("%v: %s", err, body)
	})
	return v
}

func (v *visitor) post(path string, form url.Values) (string, error) {
	return v.send(path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

func (v *visitor) send(path, kind string, body io.Reader) (string, error) {
	r, err := http.NewRequest("POST", v.url+path, body)
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("Origin", v.url)
	resp, err := v.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return string(answer), err
}

// cutAt is an upload of which cut is called once n bytes are with the kernel; what comes
// after goes on its way meanwhile.
type cutAt struct {
	data []byte
	n    int
	cut  func() error // an error ends the upload
}

// Read implements io.Reader.
func (c *cutAt) Read(b []byte) (int, error) {
	if c.n <= 0 && c.cut != nil {
		cut := c.cut
		c.cut = nil
		if err := cut(); err != nil {
			return 0, err
		}
	}
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	most := len(b)
	if c.cut != nil {
		most = min(most, c.n)
	}
	n := copy(b[:most], c.data)
	c.data, c.n = c.data[n:], c.n-n
	return n, nil
}

// Wherever an upload on the page is cut, by the browser or with the agent, the old
// version is there or the new one, whole, nothing else is left of it, and the next upload is taken.
func TestUploadCutAnywhere(t *testing.T) {
	t.Parallel()
	address := testprograms.FreeAddress(t, "127.0.0.1")
	d := paged(t, address)
	d.start()
	content, err := os.ReadFile(bundle("1.1.0"))
	d.check(err)
	var form *multipart.Writer
	whole, installed := 0, 0
	v := d.visit(address)
	parts := func() []byte {
		var b bytes.Buffer
		form = multipart.NewWriter(&b)
		d.check(form.WriteField("csrf", v.csrf))
		part, err := form.CreateFormFile("bundle", "hello.tandem")
		d.check(err)
		_, err = part.Write(content)
		d.check(errors.Join(err, form.Close()))
		return b.Bytes()
	}
	random := rand.New(rand.NewPCG(seed(t), 2))
	for i := range 20 {
		body := parts()
		at, kill := random.IntN(len(body)), i%2 == 1
		what := fmt.Sprintf("cut %d at byte %d of %d", i, at, len(body))
		upload := &cutAt{body, at, func() error { return io.ErrUnexpectedEOF }}
		if kill {
			what += ", the agent killed"
			upload.cut = func() error { d.signal(syscall.SIGKILL); return nil }
		}
		if i%4 == 3 { // once all of it is there
			sign := []string{"system/.tandem/commit.json", "usr_data/.tandem/commit.json", "system/.tandem/pending.json"}[i/4%3]
			what = fmt.Sprintf("cut %d, the agent killed when there is %s", i, sign)
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				_, _ = v.send("/do/install", form.FormDataContentType(), bytes.NewReader(body)) // it is cut
			}()
			for done := false; !done; {
				_, err := os.Stat(d.path(sign))
				select {
				case <-answered:
					done = true
				default:
					done = err == nil
				}
			}
			d.kill()
			<-answered
			whole++
		} else {
			_, _ = v.send("/do/install", form.FormDataContentType(), upload) // it is cut
		}
		if kill {
			if d.agent != nil {
				d.kill()
			}
			d.start()
			v = d.visit(address)
		}
		var version string
		eventually(t, soon, what, func() error {
			s, err := d.status()
			if err != nil {
				return err
			}
			version = s.Sides["system"].Version.String()
			if !s.InStep || s.Agent.Doing != "idle" || s.Pending != nil || version != "1.0.0" && (version != "1.1.0" || i%4 != 3) {
				return fmt.Errorf("%s, in step: %t; %s", version, s.InStep, s.Agent.Doing)
			}
			if left := d.left(); len(left) > 0 {
				return fmt.Errorf("%q are left", left)
			}
			return nil
		})
		if version == "1.1.0" {
			installed++
			d.must("install", "--allow-downgrade", bundle("1.0.0"))
			d.must("unrevoke", "1.1.0")
		}
	}
	t.Logf("of %d uploads that were whole when the agent was killed %d were installed", whole, installed)
	body := parts()
	if _, err := v.send("/do/install", form.FormDataContentType(), bytes.NewReader(body)); err != nil {
		t.Errorf("the last upload: %v", err)
	}
	eventually(t, soon, "the last upload", func() error { return d.runs("1.1.0") })
}

// left are the files that an installation leaves which was cut off.
func (d *device) left() (all []string) {
	for _, dir := range []string{"system/.tandem/next", "usr_data/.tandem/next", "state/downloads"} {
		_ = filepath.WalkDir(d.path(dir), func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				all = append(all, name)
			}
			return nil
		})
	}
	for _, name := range []string{"system/.tandem/commit.json", "usr_data/.tandem/commit.json"} {
		if _, err := os.Stat(d.path(name)); err == nil {
			all = append(all, name)
		}
	}
	return all
}

// A return from a recalled release that was cut off after its commit, and before it was
// noted that the version which came back has to prove itself, is watched all the same;
// also when the agent is killed again. Where it is not well the recalled one is back.
func TestReturnIsWatched(t *testing.T) {
	t.Parallel()
	d := newDevice(t, options{hooks: true})
	d.must("install", bundle("1.0.0"))
	d.must("install", bundle("1.1.0"))
	d.must("rollback") // as the return does, but that nothing waits
	parse := func(s string) versioning.Version {
		v, err := versioning.Parse(s)
		d.check(err)
		return v
	}
	c := dev.Course{Step: dev.Installing, Kind: rel.App, App: "hello", From: parse("1.1.0"), Version: parse("1.0.0"), Recall: true}
	sealed, err := record.Author{}.Seal("agent", struct {
		dev.Machine
	}{dev.Machine{Works: []dev.Work{{Course: c}}}})
	d.check(err)
	d.write("state/agent.json", string(sealed))
	d.write("health.sh", "exit 75\n")
	for i := range 2 {
		d.start()
		d.until(soon, "the version waits", func(s *dev.Status) error {
			if s.Pending == nil || s.Pending.Version.String() != "1.0.0" || s.Pending.Previous.String() != "1.1.0" {
				return fmt.Errorf("start %d: pending: %+v; %s", i, s.Pending, s.Agent.Doing)
			}
			return nil
		})
		d.kill()
	}
	d.write("health.sh", "exit 1\n")
	d.start()
	d.until(atLast, "1.1.0 is back", func(s *dev.Status) error {
		if v := s.Sides["system"].Version.String(); v != "1.1.0" || s.Pending != nil || !s.InStep {
			return fmt.Errorf("%s, pending %+v", v, s.Pending)
		}
		return nil
	})
}

// What the server wants a person to confirm is denied, with a reason that it is told, and
// confirmed on the technician's page.
func TestHawkBitOnThePage(t *testing.T) {
	t.Parallel()
	h := newHawk(t, nil)
	address := testprograms.FreeAddress(t, "127.0.0.1")
	d := installed(t, options{source: "http://" + h.address, agent: pollOften, more: "type = \"hawkbit\"\ntarget_token_file = \"token\"\n"})
	d.write("token", deviceToken+"\n")
	d.servePage(address)
	d.start()
	v := d.visit(address)
	content, err := os.ReadFile(bundle("1.1.0"))
	h.check(err)
	asks := true
	n := h.assign(hawkbit.Assignment{Set: h.set("1.1.0", map[string][]byte{"hello.tandem": content}), Type: "forced", Confirm: &asks})
	shows := func(want string) {
		t.Helper()
		eventually(t, atLast, "the page shows "+want, func() error {
			resp, err := v.Get(v.url + "/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil && !strings.Contains(string(body), want) {
				err = fmt.Errorf("it is %s", body)
			}
			return err
		})
	}
	order := func(action string, more url.Values) {
		t.Helper()
		form := url.Values{"csrf": {v.csrf}}
		maps.Copy(form, more)
		_, err := v.post("/do/"+action, form)
		h.check(err)
	}
	shows(fmt.Sprintf("action %d waits for a person", n))
	order("deny-update", url.Values{"reason": {"not during the harvest"}})
	shows("It was denied, and is still offered.")
	eventually(t, atLast, "the server is told", func() error {
		if told := h.told(n); !strings.Contains(told, "not during the harvest") {
			return errors.New(told)
		}
		return nil
	})
	order("confirm-update", nil)
	if got := h.over(n, func() {}); got != "finished" {
		t.Errorf("the action is %s:\n%s", got, h.told(n))
	}
	if got := strings.TrimSpace(d.read("system/app_ver.txt")); got != "1.1.0" {
		t.Errorf("%s runs", got)
	}
}
