package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSQLite has sqlite3 write while backups are made, in each journal mode, with few
// rests and in the end with none: what lies on usr_data opens, is whole, and after a backup that
// succeeded has all that was committed before it began.
func TestSQLite(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs the program sqlite3")
	}
	for _, mode := range []string{"delete", "truncate", "persist", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			sqlite(t, mode)
		})
	}
}

func sqlite(t *testing.T, mode string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d := newDevice(t, "")
	d.must("install", bundleFile("hello-1.0.0.tandem"))
	must(os.MkdirAll(filepath.Join(d.dir, "system/apps/data"), 0o755))
	db := exec.Command("sqlite3", "-batch", filepath.Join(d.dir, "system/apps/data/db"))
	in, err := db.StdinPipe()
	must(err)
	out, err := db.StdoutPipe()
	must(err)
	must(db.Start())
	lines := bufio.NewScanner(out)
	ask := func(sql string) string {
		if _, err := io.WriteString(in, sql+"\nselect 'end';\n"); err != nil {
			return err.Error()
		}
		said := ""
		for lines.Scan() && lines.Text() != "end" {
			said = lines.Text()
		}
		return said
	}
	if got := ask("pragma journal_mode=" + mode + ";"); got != mode {
		t.Fatalf("journal mode %q", got)
	}
	ask("create table t(id integer primary key, v text);")
	var committed atomic.Int64
	var rests atomic.Bool
	rests.Store(true)
	stop, done, midst := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(done)
		for n := int64(1); ; n++ {
			select {
			case <-stop:
				in.Close()
				return
			default:
			}
			ask(fmt.Sprintf("insert into t(id, v) values(%d, hex(randomblob(2000)));", n))
			committed.Store(n)
			if n%20 == 7 {
				select {
				case midst <- struct{}{}:
				default:
				}
			}
			if n%20 == 0 && rests.Load() {
				time.Sleep(700 * time.Millisecond) // as an application that has nothing to write
			}
		}
	}()
	captured := 0
	for round := range 5 {
		rests.Store(round < 4)
		<-midst // of writing
		before := committed.Load()
		o := d.run("backup")
		if o.exit != 0 && !strings.Contains(o.stderr, "not captured") {
			t.Fatal(o)
		}
		copied := t.TempDir()
		files, _ := filepath.Glob(filepath.Join(d.dir, "usr_data/apps/data/db*"))
		for _, f := range files {
			data, err := os.ReadFile(f)
			must(err)
			must(os.WriteFile(filepath.Join(copied, filepath.Base(f)), data, 0o644))
		}
		if len(files) == 0 {
			continue
		}
		found, err := exec.Command("sqlite3", "-batch", filepath.Join(copied, "db"), "pragma integrity_check; select count(*) from sqlite_master; select max(id) from t;").CombinedOutput()
		got := strings.Fields(string(found))
		if err != nil || len(got) < 2 || got[0] != "ok" {
			t.Fatalf("what was captured: %v\n%s", err, found)
		}
		if o.exit == 0 {
			captured++
			n := int64(0)
			if len(got) > 2 {
				n, _ = strconv.ParseInt(got[2], 10, 64)
			}
			if n < before {
				t.Errorf("captured up to %d, %d was committed before", n, before)
			}
		}
	}
	close(stop)
	<-done
	must(db.Wait())
	if captured == 0 {
		t.Error("nothing was captured")
	}
	t.Logf("%s: %d of 5 captures, %d transactions", mode, captured, committed.Load())
}
