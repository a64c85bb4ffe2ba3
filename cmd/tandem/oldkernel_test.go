package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tandem/internal/testprograms"
)

// onOldKernel are scripts that between them do all that a device does: back up,
// install, update, restore, repair, roll back, run hooks and handlers, remount.
var onOldKernel = []string{
	"main-job", "verify", "attributes", "firmware", "full-disk",
	"hooks-stop-start", "hooks-health-timeout",
	"rollback-previous", "rollback-boots", "rollback-unhealthy",
	"reconciler-hardlinks", "reconciler-merge", "reconciler-remount", "reconciler-setuid",
	"reconciler-sparse", "reconciler-tight-in-place", "reconciler-xattrs",
}

// Both programs do without whatever came to the kernel after Linux 3.18.
func TestOldKernel(t *testing.T) {
	t.Parallel()
	programsOnly(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("test/oldkernel knows the system calls of amd64 only")
	}
	bin := t.TempDir()
	helper := filepath.Join(bin, "oldkernel")
	if err := testprograms.Build(bin, testprograms.Small(), "tandem/test/oldkernel"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tandem", "tandem-release"} {
		script := fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' \"$@\"\n", helper, filepath.Join(binDir, name))
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := params(t, "")
	for _, name := range onOldKernel {
		p.Files = append(p.Files, filepath.Join("testdata", "script", name+".txtar"))
	}
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
		return nil
	}
	testscript.Run(t, p)
}
