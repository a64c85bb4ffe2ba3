package main

import (
	"errors"
	"io/fs"
	"syscall"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/backup"
	"tandem/internal/child"
	"tandem/internal/cli"
	"tandem/internal/config"
	"tandem/internal/lock"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/trust"
)

// deviceFaults are what the kernel says where a device is short of something or its
// storage fails: no Tandem could do better. A new one is not judged by them.
var deviceFaults = []error{syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.EBUSY, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE}

// forbidden reports whether a side cannot be used because who asks may not.
func forbidden(err error) bool {
	return errors.Is(err, backup.ErrUnavailable) && errors.Is(err, syscall.EACCES)
}

// outcomes is the one table of how commands end. Where an error fits several
// rows, the first one counts.
func outcomes() cli.Outcomes {
	return cli.Outcomes{
		{Exit: 0, Means: "done, or nothing to do"},
		{Exit: exitConfig, Means: "wrong configuration, where a service manager asks", Is: isService, Hint: "correct the configuration where the message says"},
		{Exit: 2, Means: "wrong usage or configuration", Errs: []error{config.ErrInvalid}, Hint: "correct the configuration where the message says"},
		{Exit: 2, Is: cli.IsUsage}, // its hint names the command
		{Exit: 2, Errs: []error{trust.ErrRoot, device.ErrNoRoot}, Hint: `put the root.json that "tandem-release repo init" named there`},
		{Exit: 2, Errs: []error{lock.ErrPlace}, Hint: "correct lock, or pid_file, in the section [agent] of the configuration"},
		{Exit: 2, Errs: []error{backup.ErrApplicationFile}, Hint: "a release or tandem bump changes it"},
		{Exit: 1, Errs: []error{backup.ErrNoSuchPath}, Hint: "name it as the messages do, below apps, such as etc/hello.conf"},
		{Exit: 60, Means: "another tandem is at work", Errs: []error{lock.ErrBusy}, Hint: "wait until it is done, or stop it, then try again"},
		{Exit: 51, Means: "unhealthy: rolled back", Errs: []error{device.ErrUnhealthy}, Hint: "the version is revoked: a higher one is taken, or this one with --allow-revoked"},
		{Exit: 50, Means: "hook refused or postponed", Errs: []error{child.ErrPostponed}, Hint: "try again later"},
		{Exit: 50, Errs: []error{device.ErrHook}, Hint: "correct the hook, whose messages are above; the version is not revoked, and can be installed then"},
		{Exit: 50, Errs: []error{child.ErrNotRun}, Hint: "see whether that program runs by hand; the agent asks it again"},
		{Exit: 50, Errs: []error{child.ErrRefused}, Hint: "the hook's output above says why; nothing was changed"},
		{Exit: 1, Errs: []error{backup.ErrBusy}, Hint: "run it again when the application is at rest, or let [hooks] capture make it hold still"},
		{Exit: 12, Errs: []error{backup.ErrBlocked}, Hint: "take away what stands there, such as a mount or chattr +i, then try again"},
		{Exit: 1, Errs: []error{backup.ErrNothingToReturnTo}, Hint: "install a bundle of the version that you want, with --allow-downgrade"},
		{Exit: 40, Means: "not enough space", Errs: []error{backup.ErrNoSpace, ota.ErrNoSpace}, Hint: "make room on that file system, then try again"},
		{Exit: 12, Is: forbidden, Hint: "run it as root, such as with sudo"},
		{Exit: 12, Means: "a side is not mounted or not writable", Errs: []error{backup.ErrUnavailable, ota.ErrNotWritable},
			Hint: "mount the partition read-write, or correct path and mount in the configuration"},
		{Exit: 1, Errs: []error{ota.ErrBudget}, Hint: "raise max_download in [agent], or install the bundle from a file"},
		{Exit: 30, Means: "source unreachable", Errs: []error{ota.ErrUnreachable}, Hint: "see whether the network and [source] url are right; the next attempt goes on where this one stopped"},
		{Exit: 31, Means: "source's answer refused", Errs: []error{ota.ErrRefused}, Hint: "see whether something between here and the server answers in its place or changes what it sends"},
		{Exit: 20, Means: "refused: not signed by this device's root", Errs: []error{trust.ErrUntrusted}, Hint: "use a bundle that was signed with the keys of this device's root.json"},
		{Exit: 13, Means: "made by a newer Tandem", Errs: []error{bundle.ErrCodec, backup.ErrNewer}, Hint: "update Tandem on this device first"},
		{Exit: 24, Means: "malformed bundle", Errs: []error{bundle.ErrMalformed}, Hint: "fetch or copy the bundle again"},
		{Exit: 21, Errs: []error{bundle.ErrBase}, Hint: "get the whole bundle, or one that builds on a version that is here"},
		{Exit: 21, Means: "refused: for other hardware or application", Errs: []error{ota.ErrIncompatible}, Hint: "get the bundle that was made for this device, or correct app and compatible in [device]"},
		{Exit: 22, Means: "refused: older than what is installed", Errs: []error{backup.ErrDowngrade}, Hint: "--allow-downgrade installs it all the same"},
		{Exit: 23, Means: "refused: revoked", Errs: []error{backup.ErrRevoked}, Hint: "--allow-revoked installs it all the same"},
		{Exit: 10, Means: "no application on either side", Errs: []error{backup.ErrNoApplication}, Hint: "install a bundle with: tandem install FILE"},
		{Exit: 11, Means: "damage remains", Errs: []error{backup.ErrDamage}, Hint: `"tandem verify --repair" repairs what the other side still has; "tandem install --reinstall FILE" replaces the rest`},
		{Exit: 1, Errs: []error{doctor.ErrFindings}, Hint: "each finding says what to do"},
		{Exit: 1, Errs: []error{fs.ErrPermission}, Hint: "run it as root, such as with sudo"},
		{Exit: 1, Errs: deviceFaults, Hint: "the kernel could not do it: its log says more, such as with dmesg"},
		{Exit: 1, Means: "any other failure"},
	}
}

// hintedError is an error whose hint depends on the command.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// Hint says what to do next.
func (e *hintedError) Hint() string { return e.hint }
