package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// later makes the file name one that Tandem 2.3.0 wrote, in a format of which nothing is
// known here: with the body that it has, if it is there.
func (d *unit) later(name, kind string) {
	d.t.Helper()
	body := []byte("{}\n")
	if data, err := os.ReadFile(filepath.Join(d.dir, name)); err == nil {
		_, body, _ = bytes.Cut(data, []byte("\n"))
	}
	head := fmt.Sprintf(`{"tandem":%q,"format":9,"reads":9,"by":"2.3.0","size":%d,"sha256":"%x"`, kind, len(body), sha256.Sum256(body))
	if err := os.MkdirAll(filepath.Join(d.dir, filepath.Dir(name)), 0o700); err != nil {
		d.t.Fatal(err)
	}
	d.write(name, fmt.Sprintf("%s,\"seal\":\"%x\"}\n%s", head, sha256.Sum256([]byte(head)), body))
}

// What a newer Tandem wrote is left alone by every command, whichever file it is: exit
// code 13, and nothing is lost.
func TestNewerFiles(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	const download = "state/downloads/hello.ba5eba11ba5eba11ba5eba11ba5eba11ba5eba11ba5eba11ba5eba11ba5eba11."
	files := map[string]string{
		"state/agent.json": "agent", "state/hawkbit.json": "hawkbit", "state/history.jsonl": "history", "state/history.3.jsonl": "history",
		"state/trust/poll.json": "poll", "state/trust/time.json": "poll", "state/firmware/modem/record.json": "firmware", "state/firmware/tandem/proof.json": "proof",
		download + "boot": "boot", download + "spent": "spent", download + "whole": "whole",
	}
	for _, side := range []string{"system", "usr_data"} {
		for name, kind := range map[string]string{
			"record": "record", "commit.json": "commit", "pending.json": "pending", "revoked.json": "revoked", "index": "index",
			"self/kept.json": "kept",
			"next/record":    "record", "next/old/record": "record", "previous/record": "record",
		} {
			files[side+"/.tandem/"+name] = kind
		}
	}
	commands := [][]string{
		{"boot"}, {"boot", "--dry-run"}, {"backup"}, {"status"}, {"verify"}, {"verify", "--repair"}, {"check"}, {"update"},
		{"install", bundleFile("hello-2.0.0.tandem")}, {"install", "--reinstall", bundleFile("hello-1.1.0.tandem")},
		{"install", "--allow-downgrade", "--allow-revoked", bundleFile("hello-1.0.0.tandem")},
		{"rollback"}, {"rollback", "--to", "1.0.0"}, {"confirm"}, {"revoke", "1.1.0"}, {"revoke", "3.0.0"}, {"unrevoke", "0.9.0"}, {"bump", "patch"},
		{"forget", "etc/hello.conf"}, {"recall"}, {"recall", "etc/hello.conf"}, {"recall", "--bump", "bin/hello"}, {"backup", "--shutdown"},
	}
	full := map[string]bool{"system/.tandem/record": true, "usr_data/.tandem/revoked.json": true, "state/agent.json": true}
	for name, kind := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, "poll = \"1000h\"\nsocket = \"socket\"\n"+sourceSection("file://"+bundleFile("repo"))+
				"\n[[firmware]]\nname = \"modem\"\nhandler = [\"/bin/sh\", \"-c\", \"echo 1.0.0\"]\n")
			for _, v := range []string{"1.0.0", "1.1.0"} {
				d.must("install", bundleFile("hello-"+v+".tandem"))
			}
			d.must("revoke", "0.9.0")
			d.must("check")
			d.write("system/apps/etc/more.conf", "an edit that is not captured yet\n")
			if strings.HasPrefix(name, "state/") {
				d.must("boot") // the sides are kept in step all the same: at rest, here
			}
			d.later(name, kind)
			whole := func() tree {
				t.Helper()
				all, err := readTree(d.dir, "system", "usr_data", "state")
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			before := whole()
			for _, args := range commands {
				// What is found by one command is found by all, in one way; these write by different ones.
				if brief := []string{"boot", "update", "install", "revoke"}; !full[name] && !slices.Contains(brief, args[0]) {
					continue
				}
				o := d.run(args...)
				if o.exit != 13 || !strings.Contains(o.stderr, "made by Tandem 2.3.0") || !strings.Contains(o.stderr, "update Tandem") {
					t.Errorf("tandem %q: %s", args, o)
				}
				after := whole()
				if args[0] == "backup" && len(args) > 1 && strings.HasPrefix(name, "state/") { // notes the orderly end on the sides
					for _, side := range []string{"system", "usr_data"} {
						delete(before, side+"/.tandem/index")
						delete(after, side+"/.tandem/index")
						delete(before, side+"/.tandem")
						delete(after, side+"/.tandem")
					}
				}
				if diff := before.differences(after, untouched); len(diff) > 0 {
					t.Fatalf("tandem %q wrote:\n\t%s", args, strings.Join(diff, "\n\t"))
				}
			}
			var s struct {
				Exit  int
				Newer struct{ Path, By string }
			}
			o := d.run("status", "--json")
			if err := json.Unmarshal([]byte(o.stdout), &s); err != nil || s.Exit != 13 || s.Newer.By != "2.3.0" || !strings.HasSuffix(s.Newer.Path, name) {
				t.Errorf("status: %v %+v", err, s)
			}
			if want := map[bool]int{true: 13}[kind == "history"]; d.run("history").exit != want {
				t.Errorf("history: %s", d.run("history"))
			}
		})
	}
}

// Two Tandems, of which the newer writes files that the older does not know: the older
// leaves them alone, and the newer goes on where it was.
func TestTwoTandems(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	newer := filepath.Join(selfPrograms(t), "tandem-3.0.0")
	d := newDevice(t, "poll = \"1000h\"\nsocket = \"socket\"\n")
	byNewer := func(args ...string) {
		t.Helper()
		cmd := d.command(context.Background(), args...)
		cmd.Path = newer
		if o := d.wait(d.begin(cmd)); o.exit != 0 {
			t.Fatalf("the newer: tandem %q: %s", args, o)
		}
	}
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	byNewer("boot") // it reads what the older wrote
	byNewer("install", bundleFile("hello-1.1.0.tandem"))
	byNewer("revoke", "1.0.0")
	before := d.sides()
	for _, args := range [][]string{{"boot"}, {"install", "--allow-downgrade", "--allow-revoked", bundleFile("hello-1.0.0.tandem")}, {"revoke", "0.9.0"}, {"rollback"}, {"status"}} {
		if o := d.run(args...); o.exit != 13 || !strings.Contains(o.stderr, "made by Tandem 3.0.0") {
			t.Errorf("the older: tandem %q: %s", args, o)
		}
	}
	t.Run("agent", func(t *testing.T) {
		a := &unit{t, d.dir}
		a.startAgent()
		for _, args := range [][]string{{"status"}, {"rollback"}, {"confirm"}, {"install", bundleFile("hello-2.0.0.tandem")}} {
			if o := a.run(args...); o.exit != 13 || !strings.Contains(o.stderr, "made by Tandem 3.0.0") {
				t.Errorf("through the agent: tandem %q: %s", args, o)
			}
		}
	})
	if diff := before.differences(d.sides(), untouched); len(diff) > 0 {
		t.Fatalf("the older wrote:\n\t%s", strings.Join(diff, "\n\t"))
	}
	byNewer("boot")
	byNewer("verify")
	// A factory state with the older one in place, beside what the newer keeps.
	if err := errors.Join(os.RemoveAll(filepath.Join(d.dir, "system")), os.Mkdir(filepath.Join(d.dir, "system"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := writeApp(filepath.Join(d.dir, "system", "apps"), "1.0.0"); err != nil {
		t.Fatal(err)
	}
	d.write("system/app_ver.txt", "1.0.0\n")
	before = d.sides()
	if o := d.run("boot"); o.exit != 13 {
		t.Errorf("the older after a factory restore: %s", o)
	}
	if diff := before.differences(d.sides(), unchanged); len(diff) > 0 {
		t.Fatalf("the older wrote after a factory restore:\n\t%s", strings.Join(diff, "\n\t"))
	}
	byNewer("boot")
	if got := d.read("system/app_ver.txt"); got != "1.1.0\n" {
		t.Errorf("the newer after a factory restore: %s", got)
	}
}

// A damaged list of revoked versions is not an empty one, on one side or on both.
func TestDamagedRevocation(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	d.must("revoke", "1.1.0")
	flip := func(name string) {
		t.Helper()
		data := []byte(d.read(name))
		data[bytes.IndexByte(data, '\n')-10] ^= 1 // in the seal
		d.write(name, string(data))
	}
	for _, sides := range [][]string{{"system"}, {"usr_data"}, {"system", "usr_data"}} {
		for _, side := range sides {
			flip(side + "/.tandem/revoked.json")
		}
		if o := d.run("install", bundleFile("hello-1.1.0.tandem")); o.exit != 23 {
			t.Errorf("damaged on %v: %s", sides, o)
		}
		d.must("boot")
		if o := d.must("status"); !strings.Contains(o.stdout, "revoked: 1.1.0") {
			t.Errorf("damaged on %v: %s", sides, o)
		}
	}
}
