package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"tandem/test/hawkbit"
)

// Every button does what its command does, with the page's script, which shows what comes
// of it by itself, and without.
func TestButtons(t *testing.T) {
	t.Parallel()
	for _, scripts := range []bool{true, false} {
		t.Run(map[bool]string{true: "script", false: "no script"}[scripts], func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, "")
			b := newTab(t, d.url, scripts)
			wants := func(got, want string) {
				t.Helper()
				if !strings.Contains(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			}

			b.open("/")
			b.fill("#password", "not the password")
			b.click("form button")
			eventually(t, "a refusal", func() error { return contains(b.text("[role=alert]"), "That is not the password.") })
			b.logIn(fullPassword)
			if b.scripts != evaluate[bool](b, "typeof become === 'function'") {
				t.Fatalf("scripts: want %t", b.scripts)
			}

			b.order("doctor")
			b.shows("#kept .findings", "permissions: nobody else can write")
			wants(b.order("check"), "done: 1.1.0")

			d.write("undecided", "")
			wants(b.order("update"), "done")
			b.shows("#pending", "1.1.0 waits to be confirmed; 0 starts since.")
			wants(b.order("confirm"), "done")
			b.gone("#pending")
			check(t, d.runs("1.1.0"))
			check(t, os.Remove(d.path("undecided")))

			wants(b.order("rollback"), "done")
			b.shows("#state", "Revoked: 1.1.0")
			check(t, d.runs("1.0.0"))

			// The agent may look at the sides by itself, and be first to mend them.
			eventually(t, "damage is found, and mended", func() error {
				d.write("usr_data/apps/bin/hello", "damaged\n")
				if said := b.order("verify"); !strings.Contains(said, "damage") {
					return fmt.Errorf("verify: %s", said)
				}
				return contains(b.order("repair"), "done")
			})
			b.shows("#step", "The sides are in step.")
			check(t, d.runs("1.0.0"))

			// What somebody made of the application's own file goes aside, and comes back.
			d.write("system/apps/"+odd, "a person's own\n")
			b.shows("#kept .aside", markup)
			own := `#kept .aside li[id^="aside-system"] `
			recall := own + "button"
			wants(b.orders("recall", func() { b.click(recall) }), "bump")
			wants(b.orders("recall", func() { b.click(own + "[name=bump]"); b.click(recall) }), "done")
			check(t, d.runs("1.0.1"))
			wants(d.read("usr_data/apps/"+odd), "a person's own")

			wants(b.install(filepath.Join(bundles, "garbage")), "malformed bundle")
			if scripts {
				b.shows("#uploaded", "")
			}
			wants(b.install(bundle("1.0.0")), "not newer")
			wants(b.install(bundle("1.0.0"), "allow_downgrade"), "done: 1.0.0")
			wants(b.install(bundle("1.1.0")), "revoked")
			wants(b.install(bundle("1.1.0"), "allow_revoked"), "done")
			wants(b.install(bundle("2.0.0")), "done")
			wants(b.install(bundle("2.0.0")), "done: 2.0.0")
			wants(b.install(bundle("2.0.0"), "reinstall"), "done: 2.0.0")
			check(t, d.runs("2.0.0"))

			filter := func(set, want, not string) {
				t.Helper()
				b.open("/")
				b.do(set, chromedp.Evaluate[chromedp.Void](set))
				b.click("#filter")
				eventually(t, set, func() error {
					events := b.text("#kept .events")
					if strings.Contains(events, not) {
						return fmt.Errorf("%q in %s", not, events)
					}
					return contains(events, want)
				})
			}
			filter(`document.querySelector("[name=command]").value = "confirm"`, "confirmed 1.1.0", "rollback")
			filter(`document.querySelector("[name=result]").value = "failed"`, "not newer", "confirmed")
			filter(`document.querySelector("[name=words]").value = "ROLLED BACK"`, "rollback rolled back 1.1.0 → 1.0.0", "confirmed")

			b.open("/")
			b.click("#logout")
			eventually(t, "the log-in", func() error { return contains(b.text("label"), "Password") })
			b.do("back", chromedp.NavigateBack())
			if b.has("#sides") {
				t.Error("the page is seen after the log-out")
			}

			var by []string
			for _, e := range d.history() {
				if e.By != "" {
					by = append(by, e.Command+" "+e.By)
				}
			}
			for _, command := range []string{"update", "confirm", "rollback", "recall", "install"} {
				if !slices.Contains(by, command+" page, 127.0.0.1") {
					t.Errorf("the history does not say who gave %s: %q", command, by)
				}
			}
			b.quiet()
		})
	}
}

// quiet fails the test if the browser had something to complain of.
func (b *tab) quiet() {
	b.t.Helper()
	for _, m := range b.said() {
		if !strings.Contains(m, "status of 401") && !strings.Contains(m, "status of 403") && !strings.Contains(m, "goo.gl/9p2vKq") {
			b.t.Errorf("the browser says %s", m)
		}
	}
}

const slowly = 6 << 20 // bytes a second, of an upload that is looked at

// begin uploads the large bundle slowly, until something of it is with the agent.
func (b *tab) begin() {
	b.t.Helper()
	b.slow(slowly)
	b.choose(bundle("3.0.0"))
	b.click("#do-install")
	seen := map[string]bool{}
	eventually(b.t, "the bar moves", func() error {
		at, _ := tryEvaluate[string](b, "document.getElementById('bar')?.getAttribute('value') ?? ''")
		seen[at] = true
		if sent, _ := tryEvaluate[float64](b, "document.getElementById('sent').value"); len(seen) < 4 || sent < 20 {
			return fmt.Errorf("%g %% sent, the bar was at %v; the page: %s", sent, seen, b.body())
		}
		return nil
	})
}

// An upload of 64 MiB that is cut off installs nothing and leaves nothing, whatever cut
// it; and the next one is installed.
func TestUploadIsCut(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	unchanged := func() {
		t.Helper()
		eventually(t, "the old version", func() error {
			if left := d.leavings(); len(left) > 0 {
				return fmt.Errorf("%q are left", left)
			}
			return d.runs("1.0.0")
		})
	}

	b := newTab(t, d.url, true)
	b.logIn(fullPassword)
	b.begin()
	b.click("#do-cancel")
	b.shows("#now .tasks .bad", "cancelled")
	unchanged()

	b.open("/")
	b.begin()
	b.close()
	b = newTab(t, d.url, true)
	b.logIn(fullPassword)
	b.shows("#now .tasks .bad", "Install")
	unchanged()

	b.begin()
	d.kill()
	b.shows("#uploaded", "The connection was cut.")
	b.shows("#lost", "The device does not answer.")
	d.launch()
	eventually(t, "the log-in", func() error { return contains(b.text("label"), "Password") })
	b.logIn(fullPassword)
	unchanged()
	b.slow(0)
	if got := b.install(bundle("3.0.0")); !strings.Contains(got, "done") {
		t.Errorf("the whole upload: %s", got)
	}
	check(t, d.runs("3.0.0"))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.agent.Process.Pid))
	check(t, err)
	t.Logf("the most memory that the agent had: %s", regexp.MustCompile(`VmHWM:\s+(.*)`).FindSubmatch(status)[1])
}

// Of a large upload that is refused at its beginning the browser shows why, though it
// sends the rest.
func TestUploadIsRefused(t *testing.T) {
	t.Parallel()
	for _, scripts := range []bool{true, false} {
		t.Run(map[bool]string{true: "script", false: "no script"}[scripts], func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, "")
			d.tandem("", "install", bundle("3.0.0"))
			d.tandem("", "install", "--allow-downgrade", bundle("1.0.0"))
			d.tandem("", "revoke", "3.0.0")
			b := newTab(t, d.url, scripts)
			b.logIn(fullPassword)
			b.slow(4 * slowly)
			if got := b.install(bundle("3.0.0")); !strings.Contains(got, "revoked") {
				t.Errorf("a revoked version: %s", got)
			}
			if scripts {
				eventually(t, "the answer", func() error {
					if b.has("#do-install:disabled") {
						return fmt.Errorf("the upload goes on")
					}
					return nil
				})
				if said := b.text("#uploaded"); said != "" {
					t.Errorf("beside it the page says %q", said)
				}
			}
			b.open("/")
			b.choose(bundle("3.0.0"))
			d.tandem("another "+fullPassword, "page", "password") // which ends the session
			if scripts {                                          // what follows along has come to the log-in before anybody clicks
				eventually(t, "the log-in", func() error { return contains(b.text("label"), "Password") })
			} else {
				b.click("#do-install")
				eventually(t, "the session has ended", func() error { return contains(b.body(), "The session has ended. Log in again.") })
			}
			check(t, d.runs("1.0.0"))
		})
	}
}

// What a hawkBit server wants a person to confirm is confirmed, or denied with a reason,
// on the page.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	for _, scripts := range []bool{true, false} {
		t.Run(map[bool]string{true: "script", false: "no script"}[scripts], func(t *testing.T) {
			t.Parallel()
			const controller, token = "gate-17", "s3cret"
			server := httptest.NewServer(hawkbit.New(hawkbit.Options{Now: time.Now, Random: func() float64 { return 0.5 }, MinSleep: time.Second}))
			t.Cleanup(server.Close)
			op := &hawkbit.Operator{URL: server.URL, Client: server.Client()}
			check(t, op.Configure(t.Context(), map[string]any{"pollingTime": "00:00:01", "user.confirmation.flow.enabled": true}))
			check(t, op.AddTarget(t.Context(), controller, token))
			data, err := os.ReadFile(bundle("1.1.0"))
			check(t, err)
			module, err := op.AddModule(t.Context(), hawkbit.Module{Name: "hello", Version: "1.1.0", Type: "application", Files: map[string][]byte{"hello-1.1.0.tandem": data}})
			check(t, err)
			set, err := op.AddSet(t.Context(), "hello", "1.1.0", "app", module)
			check(t, err)
			d := newDevice(t, "", func(d *device) {
				d.replace("url = \"file:"+filepath.Join(bundles, "repo")+"\"", fmt.Sprintf("type = \"hawkbit\"\nurl = %q\ntarget_token_file = \"token\"\ncontroller = %q", server.URL, controller))
				d.replace("metered = true", "metered = false")
				d.write("token", token+"\n")
				check(d.t, os.Chmod(d.path("token"), 0o600))
			})
			b := newTab(t, d.url, scripts)
			b.logIn(fullPassword)
			asks := true
			action, err := op.Assign(t.Context(), controller, hawkbit.Assignment{Set: set, Type: "forced", Confirm: &asks})
			check(t, err)
			b.shows("#waiting", fmt.Sprintf("The server's action %d waits for a person", action))
			check(t, contains(b.text("#waiting"), "hello 1.1.0"))

			if got := b.orders("no", func() { b.fill("#reason", "not now"); b.click("#do-deny-update") }); !strings.Contains(got, "done") {
				t.Errorf("No: %s", got)
			}
			b.shows("#waiting", "It was denied, and is still offered.")
			eventually(t, "the server is told", func() error {
				entries, err := op.History(t.Context(), controller, action)
				if err != nil {
					return err
				}
				text, err := json.Marshal(entries)
				return errors.Join(err, contains(string(text), "not now"))
			})
			check(t, d.runs("1.0.0"))

			if got := b.order("confirm-update"); !strings.Contains(got, "done") {
				t.Errorf("Yes: %s", got)
			}
			b.gone("#waiting")
			eventually(t, "it is installed", func() error { return d.runs("1.1.0") })
			if evaluate[string](b, "document.title") == "pwned" {
				t.Error("a reason was taken for markup")
			}
			b.quiet()
		})
	}
}

// Whoever may only look sees all, and finds no button but those that change nothing.
func TestLooking(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	b := newTab(t, d.url, true)
	b.logIn(lookPassword)
	if got := evaluate[[]string](b, `[...document.querySelectorAll("button")].map(e => e.id)`); !slices.Equal(got, []string{"logout", "do-doctor", "filter"}) {
		t.Errorf("the buttons are %q", got)
	}
	b.order("doctor")
	b.shows("#kept .findings", "fine")
	b.quiet()
}

// The page can be read and worked with in light and dark, on a phone, with a keyboard
// and with a screen reader, when there is much on it.
func TestReading(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	b := newTab(t, d.url, true)
	look := func(what string) {
		t.Helper()
		for _, width := range []string{"phone", "desktop"} {
			for _, scheme := range []string{"light", "dark"} {
				b.scheme(scheme)
				if b.desktop(); width == "phone" {
					b.phone()
				}
				if err := b.fits(); err != nil {
					t.Errorf("%s, %s: %v", what, width, err)
				}
				for _, v := range b.axe() {
					t.Errorf("%s, %s, %s: axe: %s", what, width, scheme, v)
				}
			}
		}
	}
	b.open("/")
	look("log-in")
	b.keys(kb.Tab, 1) // the field has the focus; the next is the button
	b.keys(kb.Enter, 1)
	b.fill("#password", "wrong "+kb.Enter)
	eventually(t, "a refusal", func() error { return contains(b.text("[role=alert]"), "That is not the password.") })
	look("refusal")
	b.fill("#password", fullPassword+kb.Enter)
	eventually(t, "the page", func() error { return contains(b.text("#sides"), "Sides") })
	b.loaded()

	d.write("system/apps/"+odd, "a person's own\n")
	b.shows("#kept .aside", markup)
	b.install(filepath.Join(bundles, "garbage"))
	d.write("undecided", "")
	b.order("update")
	b.shows("#pending", "1.1.0 waits to be confirmed")
	b.order("doctor")
	b.shows("#kept .findings", "fine")
	b.do("open", chromedp.Click("#now details summary"))
	look("the page")
	b.desktop()

	// With a keyboard everything can be reached, in the order in which it is read, and seen.
	b.open("/")
	want := evaluate[[]string](b, `[...document.querySelectorAll("a, button, input:not([type=hidden]), select, summary, pre")]
		.filter(e => e.checkVisibility()).map(e => e.id || e.name || e.className || e.nodeName)`)
	var got []string
	for range want {
		b.keys(kb.Tab, 1)
		at := evaluate[[]any](b, `(e => [e.id || e.name || e.className || e.nodeName, e.matches(":focus-visible") && getComputedStyle(e).outlineStyle !== "none"])(document.activeElement)`)
		got = append(got, fmt.Sprint(at[0]))
		if at[1] != true {
			t.Errorf("it is not seen that %s has the focus", at[0])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("by the tab key: %q, want %q", got, want)
	}
	// What somebody is at stays theirs while the page follows what goes on.
	b.do("focus", chromedp.Focus("#kept .aside [name=bump]"))
	b.keys(" ", 1)
	b.do("focus", chromedp.Focus("[name=words]"), chromedp.KeyEvent("some"))
	d.tandem("", "confirm")
	b.gone("#pending")
	b.keys("thing", 1)
	if got := evaluate[[]any](b, `[document.querySelector("[name=bump]").checked, document.activeElement.name, document.activeElement.value]`); fmt.Sprint(got) != "[true words something]" {
		t.Errorf("after the page followed: %v", got)
	}
	if evaluate[string](b, "document.title") == "pwned" {
		t.Error("the name of a file was taken for markup")
	}
	b.quiet()
}
