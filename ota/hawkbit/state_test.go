package hawkbit

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"

	"tandem/backup/record"
	"tandem/internal/fsys"
)

// failing is a disk whose files cannot be opened.
type failing struct {
	fsys.FS
	err error
}

func (f failing) Open(name string) (fsys.File, error) {
	return nil, &os.PathError{Op: "open", Path: name, Err: f.err}
}

// A state that is missing or damaged is that of a new device. That the kernel is
// short of something says nothing of what the device owes the server.
func TestLoad(t *testing.T) {
	disk, err := fsys.OpenOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if s, err := Load(disk, log); err != nil || s.Action != nil {
		t.Errorf("of a new device: %+v, %v", s, err)
	}
	want := &State{Server: "here", Action: &Action{Number: 7, Step: Open}}
	if err := want.save(disk, record.Author{}); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(disk, log); err != nil || s.Action == nil || s.Action.Number != 7 {
		t.Errorf("what was saved: %+v, %v", s, err)
	}
	for _, c := range []struct {
		errno  syscall.Errno
		damage bool
	}{{syscall.EMFILE, false}, {syscall.ENFILE, false}, {syscall.ENOMEM, false}, {syscall.EACCES, false}, {syscall.EIO, true}, {syscall.EUCLEAN, true}} {
		s, err := Load(failing{disk, c.errno}, log)
		if c.damage && (err != nil || s.Action != nil) || !c.damage && !errors.Is(err, c.errno) {
			t.Errorf("%v: %+v, %v", c.errno, s, err)
		}
	}
	if err := os.WriteFile(disk.Path(stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(disk, log); err != nil || s.Action != nil {
		t.Errorf("a damaged one: %+v, %v", s, err)
	}
}
