package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tandem/agent/device"
)

// itself looks at Tandem's own program: whether another one can take its place, and
// what there is to go back to.
func (x *examination) itself(context.Context) {
	const about, noUpdate = "tandem", "no update of Tandem itself is installed"
	t, err := x.Device.Itself()
	switch {
	case err != nil:
		x.wrong(about, err.Error(), noUpdate, "correct what the message names")
		return
	case t == nil:
		x.note(about, "it is of no release: it does not keep itself", "install one of a release")
		return
	}
	program := x.Device.Program()
	dir := filepath.Dir(program)
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS); err != nil {
		x.wrong(about, fmt.Sprintf("%s cannot be written: %v", dir, err), noUpdate, "mount its partition read-write, and name it in ReadWritePaths of tandem-agent.service")
	} else if info, err := os.Stat(program); err == nil {
		var fs unix.Statfs_t
		free := int64(0)
		if unix.Statfs(dir, &fs) == nil {
			free = int64(fs.Bavail) * int64(fs.Bsize)
		}
		if _, err := os.Stat(program + ".previous"); err != nil && free < info.Size() {
			x.wrong(about, fmt.Sprintf("%s has no room for a second program: %d bytes are free, it takes %d", dir, free, info.Size()), noUpdate, "make room there; tandem install --tight does without a way back")
		}
	}
	if device.StartScript(program) == "" {
		x.note(about, "the script that starts it is not beside it: "+filepath.Join(dir, "start"), "with it, a new Tandem that does not work is replaced by the one before")
	}
	switch {
	case t.Pending.String() == t.Version:
		x.note(about, t.Version+" is not confirmed yet", "it is once it has started the device, and the agent has polled; tandem keep confirms it by hand")
	case !t.Pending.IsZero():
		x.note(about, t.Pending.String()+" is in place, and runs from the next start on", "restart the agent")
	case t.Kept.String() != t.Version:
		x.note(about, "usr_data keeps "+orNothing(t.Kept.String())+" of it, and "+t.Version+" runs", "install it from a signed bundle: only what is signed is kept")
	default:
		x.fine(about, "%s runs, usr_data keeps a copy", t.Version)
	}
}

func orNothing(version string) string {
	if version == "" {
		return "nothing"
	}
	return version
}
