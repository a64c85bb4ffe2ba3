package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The agent follows a recall by itself, wherever it is killed on the way.
func TestAgentReturns(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(repo, os.DirFS(bundleFile("repo"))); err != nil {
		t.Fatal(err)
	}
	if err := releaseTool("repo", "yank", repo, "hello/1.1.0", "--recall", "--keys", "keys"); err != nil {
		t.Fatal(err)
	}
	url, end := startServer(goodServer(repo))
	t.Cleanup(end)
	const hook = `echo "$1 $TANDEM_PREVIOUS $TANDEM_VERSION" >>log
[ "$1" = health ] && [ -e unwell ] && [ "$TANDEM_VERSION" = 1.0.0 ] && exit 1
[ -e "cut-$1" ] || exit 0
rm "cut-$1"
kill -9 "$(cat pid)"
`
	for _, c := range []struct {
		cut    string // the hook in which the agent is killed; "" for none
		unwell bool
		runs   string
		bad    string // what is revoked at the end
	}{
		{"", false, "1.0.0", "1.1.0"}, {"pre_install", false, "1.0.0", "1.1.0"}, {"stop", false, "1.0.0", "1.1.0"},
		{"start", false, "1.0.0", "1.1.0"}, {"health", false, "1.0.0", "1.1.0"},
		{"", true, "1.1.0", "1.0.0"}, {"start", true, "1.1.0", "1.0.0"},
	} {
		t.Run(c.cut+" "+c.runs, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, "poll = \"1s\"\nsocket = \"socket\"\npid_file = \"pid\"\n"+sourceSection(url)+`
[hooks]
pre_install = ["/bin/sh", "hook.sh", "pre_install"]
stop = ["/bin/sh", "hook.sh", "stop"]
start = ["/bin/sh", "hook.sh", "start"]
health = ["/bin/sh", "hook.sh", "health"]
`)
			d.write("hook.sh", hook)
			d.must("install", bundleFile("hello-1.0.0.tandem"))
			d.must("install", bundleFile("hello-1.1.0.tandem"))
			if c.unwell {
				d.write("unwell", "")
			}
			if c.cut != "" {
				d.write("cut-"+c.cut, "")
				if o := d.wait(d.begin(d.command(context.Background(), "agent"))); o.exit == 0 {
					t.Fatalf("the agent was not killed: %s", o)
				}
			}
			d.startAgent()
			var s string
			eventually(t, c.runs+" runs, and all is told", func() bool {
				s = d.run("status", "--json").stdout
				history := d.run("history").stdout
				return strings.Contains(s, `"in_step": true`) && strings.Contains(s, `"pending": null`) &&
					strings.Contains(s, `"`+c.bad+`"`) && strings.Contains(s, `"doing": "idle"`) && strings.Contains(history, "1.1.0), because")
			})
			tag, err := os.ReadFile(d.dir + "/system/app_ver.txt")
			if err != nil || strings.TrimSpace(string(tag)) != c.runs {
				t.Errorf("%q runs, %v:\n%s", tag, err, s)
			}
			// What the start hook was told last is what runs.
			log := strings.Split(strings.TrimSpace(d.read("log")), "\n")
			for i := len(log) - 1; i >= 0; i-- {
				if strings.HasPrefix(log[i], "start ") {
					if !strings.HasSuffix(log[i], " "+c.runs) {
						t.Errorf("what was started last: %q; all: %q", log[i], log)
					}
					break
				}
			}
		})
	}
}
