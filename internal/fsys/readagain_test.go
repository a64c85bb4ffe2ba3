package fsys_test

import (
	"errors"
	"syscall"
	"testing"

	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
)

// What can be read at the second try is not unreadable; what cannot, is.
func TestReadAgain(t *testing.T) {
	m := memfs.NewMachine()
	plain := m.NewDisk("disk", memfs.Options{}).FS()
	if err := fsys.WriteFile(plain, "file", []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	reads := 0
	m.FailReads(func(string) error { reads++; return nil })
	if _, err := fsys.ReadFile(plain, "file", 100); err != nil {
		t.Fatal(err)
	}
	for _, errno := range []error{syscall.EIO, syscall.EBADMSG, syscall.EUCLEAN} {
		for n := 1; n <= reads; n++ {
			for _, often := range []int{1, 2} {
				k := 0
				m.FailReads(func(string) error {
					if k++; k >= n && k < n+often {
						return errno
					}
					return nil
				})
				data, err := fsys.ReadFile(fsys.ReadAgain(plain), "file", 100)
				switch {
				case often == 1 && (err != nil || string(data) != "content"):
					t.Errorf("read %d fails once with %v: %q, %v", n, errno, data, err)
				case often == 2 && !errors.Is(err, errno):
					t.Errorf("read %d fails twice with %v: %q, %v", n, errno, data, err)
				}
			}
		}
	}
	k := 0
	m.FailReads(func(string) error { k++; return syscall.EACCES })
	if _, err := fsys.ReadFile(fsys.ReadAgain(plain), "file", 100); !errors.Is(err, syscall.EACCES) || k != 1 {
		t.Errorf("tried %d times: %v", k, err)
	}
}
