package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tandem/packaging/release"
)

// The scripts of Tandem itself have, beside what all have, two tandems of different
// versions in $SELF, and 3.0.0, which writes our files in a format that they do not know.
// $WORK/lib is where the device's lies, with the script that starts it.
func TestSelf(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("two more programs are built")
	}
	dir := t.TempDir()
	for _, v := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		tags := map[string]string{"3.0.0": "nextformat"}[v]
		build := exec.Command("go", "build", "-tags", tags, "-ldflags", fmt.Sprintf("-s -w -X main.version=%s -X 'main.mark=%s%s:'", v, release.ProgramMark, v),
			"-o", filepath.Join(dir, "tandem-"+v), "tandem/cmd/tandem")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	start, err := filepath.Abs("../../packaging/linux/start")
	if err != nil {
		t.Fatal(err)
	}
	broken, err := filepath.Abs("testdata/self/broken")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, params(t, filepath.Join("testdata", "self"), "SELF", dir, "START", start, "BROKEN", broken, "ARCH", release.Architecture()))
}
