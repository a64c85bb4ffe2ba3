package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/trust"
)

// Scripts and devices in the field depend on the exit codes: they do not change.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		exit int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{&cli.UsageError{Err: errors.New("unknown flag"), Command: "tandem"}, 2},
		{config.ErrInvalid, 2},
		{trust.ErrRoot, 2},
		{device.ErrNoRoot, 2},
		{backup.ErrNoApplication, 10},
		{backup.ErrDamage, 11},
		{backup.ErrUnavailable, 12},
		{ota.ErrNotWritable, 12},
		{bundle.ErrCodec, 13},
		{trust.ErrUntrusted, 20},
		{ota.ErrIncompatible, 21},
		{backup.ErrDowngrade, 22},
		{backup.ErrRevoked, 23},
		{bundle.ErrMalformed, 24},
		{ota.ErrUnreachable, 30},
		{ota.ErrRefused, 31},
		{backup.ErrNoSpace, 40},
		{ota.ErrNoSpace, 40},
		{child.ErrRefused, 50},
		{child.ErrPostponed, 50},
		{device.ErrUnhealthy, 51},
		{lock.ErrBusy, 60},
		{&serviceError{config.ErrInvalid}, 78},
		// Where two fit, the one that says what to do.
		{errors.Join(backup.ErrDamage, backup.ErrNoSpace), 40},
		{fmt.Errorf("%w: %w", ota.ErrRefused, trust.ErrUntrusted), 31},
		{fmt.Errorf("%w: %w", device.ErrUnhealthy, backup.ErrUnavailable), 51},
		{errors.Join(&remoteError{device.Failure{Error: "there", Exit: 23, Hint: "here"}}, bundle.ErrMalformed), 23},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("system: %w", err)
		}
		exit, hint := outcomes().Of(err)
		if exit != c.exit {
			t.Errorf("%v: exit code %d, want %d", c.err, exit, c.exit)
		}
		if exit > 1 && hint == "" {
			t.Errorf("%v: no hint", c.err)
		}
	}
	if _, hint := outcomes().Of(fmt.Errorf("%w: not writable: %w", backup.ErrUnavailable, syscall.EACCES)); hint != "run it as root, such as with sudo" {
		t.Errorf("another user hears: %s", hint)
	}
	for _, code := range outcomes().Codes() {
		if code.Means == "" {
			t.Errorf("exit code %d has no meaning", code.Exit)
		}
	}
}

// A failure that the table knows is no verdict on a new Tandem, whatever its exit code
// is; one that it does not know is none that Tandem came to.
func TestKnownOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err   error
		known bool
	}{
		{nil, true},
		{backup.ErrDamage, true},
		{backup.ErrBusy, true}, // exit code 1
		{fs.ErrPermission, true},
		{&os.PathError{Op: "read", Path: "apps/etc/hello.conf", Err: syscall.EIO}, true},
		{&os.PathError{Op: "open", Path: "/usrdata", Err: syscall.EMFILE}, true},
		{&os.PathError{Op: "open", Path: "/usrdata", Err: syscall.EINVAL}, false},
		{&os.PathError{Op: "open", Path: "/usrdata", Err: syscall.ENOENT}, false},
		{errors.New("anything"), false},
	} {
		if got := outcomes().Knows(c.err); got != c.known {
			t.Errorf("%v: known: %v", c.err, got)
		}
	}
}
