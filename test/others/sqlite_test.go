package others

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
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs the program sqlite3")
	}
	w := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", w+"/", "tandem/cmd/tandem").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, mode := range []string{"delete", "truncate", "persist", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			sqlite(t, filepath.Join(w, "tandem"), mode)
		})
	}
}

func sqlite(t *testing.T, tandem, mode string) {
	w := t.TempDir()
	write(t, w, "system/apps/bin/hello", "hello", 0o755)
	write(t, w, "system/app_ver.txt", "1.0.0\n", 0o644)
	write(t, w, "root.json", "{}", 0o644)
	write(t, w, "tandem.toml", `[device]
id = "one"
compatible = ["demo"]
app = "hello"
[system]
path = "system"
[usr_data]
path = "usr_data"
[trust]
root = "root.json"
[agent]
state = "state"
lock = "lock"
`, 0o644)
	must(t, os.MkdirAll(filepath.Join(w, "system/apps/data"), 0o755))
	db := exec.Command("sqlite3", "-batch", filepath.Join(w, "system/apps/data/db"))
	in, err := db.StdinPipe()
	must(t, err)
	out, err := db.StdoutPipe()
	must(t, err)
	must(t, db.Start())
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
	stop, done := make(chan struct{}), make(chan struct{})
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
			if n%20 == 0 && rests.Load() {
				time.Sleep(700 * time.Millisecond) // as an application that has nothing to write
			}
		}
	}()
	captured := 0
	for round := range 5 {
		rests.Store(round < 4)
		before := committed.Load()
		c := exec.Command(tandem, "--config", "tandem.toml", "backup")
		c.Dir = w
		said, err := c.CombinedOutput()
		code := c.ProcessState.ExitCode()
		if code != 0 && !strings.Contains(string(said), "not captured") {
			t.Fatalf("backup: %v\n%s", err, said)
		}
		copied := t.TempDir()
		files, _ := filepath.Glob(filepath.Join(w, "usr_data/apps/data/db*"))
		for _, f := range files {
			data, err := os.ReadFile(f)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(copied, filepath.Base(f)), data, 0o644))
		}
		if len(files) == 0 {
			continue
		}
		found, err := exec.Command("sqlite3", "-batch", filepath.Join(copied, "db"), "pragma integrity_check; select count(*) from sqlite_master; select max(id) from t;").CombinedOutput()
		got := strings.Fields(string(found))
		if err != nil || len(got) < 2 || got[0] != "ok" {
			t.Fatalf("what was captured: %v\n%s", err, found)
		}
		if code == 0 {
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
	must(t, db.Wait())
	if captured == 0 {
		t.Error("nothing was captured")
	}
	t.Logf("%s: %d of 5 captures, %d transactions", mode, captured, committed.Load())
}
