package page

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// tab is a tab with a profile of its own.
type tab struct {
	t       testing.TB
	ctx     context.Context
	close   context.CancelFunc
	url     string
	scripts bool

	mu      sync.Mutex
	console []string
}

func newTab(t testing.TB, url string, scripts bool) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(chrome, chromedp.WithNewBrowserContext())
	b := &tab{t: t, ctx: ctx, close: end, url: url, scripts: scripts}
	t.Cleanup(end)
	check(t, chromedp.Do(ctx))
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.console = append(b.console, m.String())
			b.mu.Unlock()
		}
	}()
	if !scripts {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		check(t, err)
	}
	b.desktop()
	return b
}

// do carries something out, within the time that there is.
func (b *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, end := context.WithTimeout(b.ctx, atLast)
	defer end()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, b.body())
	}
}

func evaluate[T any](b *tab, script string) T {
	b.t.Helper()
	v, err := tryEvaluate[T](b, script)
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return v
}

func tryEvaluate[T any](b *tab, script string) (T, error) {
	ctx, end := context.WithTimeout(b.ctx, atLast)
	defer end()
	return chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

func (b *tab) size(width, height int64, mobile bool) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: mobile})
	check(b.t, err)
}

func (b *tab) desktop() { b.size(1100, 800, false) }
func (b *tab) phone()   { b.size(360, 740, true) }

// scheme has the browser prefer light or dark.
func (b *tab) scheme(s string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s}}})
	check(b.t, err)
}

// slow bounds how fast the browser sends, in bytes a second; 0 for no bound.
func (b *tab) slow(rate float64) {
	b.t.Helper()
	c := &network.Conditions{DownloadThroughput: -1, UploadThroughput: -1}
	if rate > 0 {
		c.UploadThroughput = rate
	}
	_, err := chromedp.Call(b.ctx, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{c}})
	check(b.t, err)
}

func (b *tab) open(path string) {
	b.t.Helper()
	b.do("open "+path, chromedp.Navigate(b.url+path))
}

// again loads the page again, where nothing else would show what has changed.
func (b *tab) again() {
	if !b.scripts {
		ctx, end := context.WithTimeout(b.ctx, atLast)
		defer end()
		_ = chromedp.Do(ctx, chromedp.Navigate(b.url+"/")) // while a form is sent it goes on
	}
}

func quoted(s string) string {
	q, _ := json.Marshal(s) // a text always can be
	return string(q)
}

// text is what a person reads in an element; "" if it is not there.
func (b *tab) text(selector string) string {
	s, _ := tryEvaluate[string](b, "document.querySelector("+quoted(selector)+")?.innerText ?? ''") // not while a page is loaded
	return s
}

func (b *tab) body() string { return b.text("body") }

func (b *tab) has(selector string) bool {
	n, _ := tryEvaluate[int](b, "document.querySelectorAll("+quoted(selector)+").length")
	return n > 0
}

// shows waits until an element has a text. Without scripts the page is loaded again.
func (b *tab) shows(selector, want string) {
	b.t.Helper()
	eventually(b.t, selector+" says "+want, func() error {
		if err := contains(b.text(selector), want); err == nil {
			return nil
		}
		b.again()
		if err := contains(b.text(selector), want); err != nil {
			return fmt.Errorf("%w; the page: %s", err, b.body())
		}
		return nil
	})
}

// gone waits until no element is there.
func (b *tab) gone(selector string) {
	b.t.Helper()
	eventually(b.t, selector+" is gone", func() error {
		if b.has("body") && !b.has(selector) {
			return nil
		}
		b.again()
		return fmt.Errorf("the page: %s", b.body())
	})
}

// click presses the mouse's button on an element, as a person does.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.loaded()
	b.do("click "+selector, chromedp.ScrollIntoView(selector), chromedp.Click(selector))
}

// loaded waits until the page is there, its script included.
func (b *tab) loaded() {
	b.t.Helper()
	eventually(b.t, "the page is loaded", func() error {
		state, err := tryEvaluate[string](b, "document.readyState")
		if err == nil && state != "complete" {
			err = fmt.Errorf("it is %s", state)
		}
		return err
	})
}

// fill types into a field.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	b.do("fill "+selector, chromedp.Focus(selector), chromedp.SendKeys(selector, text))
}

// choose chooses a file to upload.
func (b *tab) choose(file string) {
	b.t.Helper()
	b.do("choose "+file, chromedp.SetUploadFiles("#bundle", []string{file}))
}

func (b *tab) logIn(password string) {
	b.t.Helper()
	b.open("/")
	b.fill("#password", password)
	b.click("form button")
	eventually(b.t, "the page", func() error { return contains(b.text("#sides"), "Sides") })
	b.loaded()
}

// newest is the order that was given last, and whether it goes on; "" if there was none.
func (b *tab) newest() (id, text string) {
	s, _ := tryEvaluate[[]string](b, `(e => e ? [e.id, e.innerText] : ["", ""])(document.querySelector("#now .tasks li"))`)
	if len(s) != 2 {
		return "", ""
	}
	return s[0], s[1]
}

// orders gives an order by do, waits until it has come to an end, and returns what came of it.
func (b *tab) orders(what string, do func()) string {
	b.t.Helper()
	before, _ := b.newest()
	page := evaluate[float64](b, "performance.timeOrigin")
	do()
	if !b.scripts { // until the answer to the form is there
		eventually(b.t, what+" was sent", func() error {
			if now, err := tryEvaluate[float64](b, "performance.timeOrigin"); err != nil || now == page {
				return fmt.Errorf("no other page yet, %v", err)
			}
			return nil
		})
	}
	var text string
	eventually(b.t, what+" is done", func() error {
		id, said := b.newest()
		if id != "" && id != before && said != "" && !strings.Contains(said, "under way") { // a browser that lags has it without its text
			text = said
			return nil
		}
		b.again()
		return fmt.Errorf("%s: %s; the page: %s", id, said, b.body())
	})
	return text
}

// order presses a button, and returns what came of it.
func (b *tab) order(action string) string {
	b.t.Helper()
	return b.orders(action, func() { b.click("#do-" + action) })
}

// install uploads a bundle, with the boxes ticked, and returns what came of it.
func (b *tab) install(file string, boxes ...string) string {
	b.t.Helper()
	return b.orders("install "+file, func() {
		b.choose(file)
		for _, box := range boxes {
			if !evaluate[bool](b, "document.querySelector('[name="+box+"]').checked") {
				b.click("[name=" + box + "]")
			}
		}
		b.click("#do-install")
	})
}

// keys presses a key a number of times.
func (b *tab) keys(key string, n int) {
	b.t.Helper()
	for range n {
		b.do("a key", chromedp.KeyEvent(key))
	}
}

// fits says whether somebody has to scroll to the side.
func (b *tab) fits() error {
	wide := evaluate[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
	if wide > 0 {
		return fmt.Errorf("the page is %d pixels wider than the window: %s", wide, evaluate[string](b, `[...document.querySelectorAll("*")]
			.filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 120)).join("\n")`))
	}
	return nil
}

// axe returns what axe finds wrong.
func (b *tab) axe() []string {
	b.t.Helper()
	if !evaluate[bool](b, "typeof axe === 'object'") {
		evaluate[chromedp.Void](b, axe)
	}
	return evaluate[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v =>
		v.id + ": " + v.help + ": " + v.nodes.map(n => n.target.join(" ") + " " + n.failureSummary).join("; ")))`)
}

// said are the complaints of the browser.
func (b *tab) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.console...)
}
