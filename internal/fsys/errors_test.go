package fsys

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// Each error is of one class, or of none.
func TestClasses(t *testing.T) {
	classes := map[string]func(error) bool{
		"missing": IsNotExist, "no space": IsNoSpace, "not writable": IsNotWritable, "unreadable": IsUnreadable, "transient": IsTransient,
	}
	for err, want := range map[error]string{
		syscall.ENOENT: "missing", syscall.ENOTDIR: "missing",
		syscall.ENOSPC: "no space", syscall.EDQUOT: "no space",
		syscall.EROFS: "not writable", syscall.EACCES: "not writable", syscall.EPERM: "not writable",
		syscall.EIO: "unreadable", syscall.EUCLEAN: "unreadable", syscall.EBADMSG: "unreadable",
		syscall.ENOMEM: "transient", syscall.EMFILE: "transient", syscall.ENFILE: "transient", syscall.EINTR: "transient", syscall.EAGAIN: "transient",
		ErrElsewhere: "", ErrReplaced: "", syscall.EBUSY: "", syscall.ESTALE: "", syscall.ENXIO: "", syscall.ENAMETOOLONG: "", syscall.ELOOP: "", syscall.EXDEV: "",
	} {
		for _, err := range []error{
			err, &fs.PathError{Op: "open", Path: "x", Err: err}, fmt.Errorf("wrapped: %w", err),
			EntryErrors{"x": &fs.PathError{Op: "stat", Path: "x", Err: err}},
		} {
			for class, is := range classes {
				if is(err) != (class == want) {
					t.Errorf("%v is %s: %t, want it %q", err, class, is(err), want)
				}
			}
		}
	}
	if classes := (EntryErrors{"b": syscall.EIO, "a": syscall.ENOENT}); !errors.Is(classes, syscall.EIO) || classes.Error() != "no such file or directory (and 1 more entries)" {
		t.Errorf("%v", classes)
	}
}
