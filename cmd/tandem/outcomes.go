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
		cli.On(0, "done, or nothing to do", nil, ""),
		cli.On(exitConfig, "wrong configuration, where a service manager asks", isService, "correct the configuration where the message says"),
		cli.On(2, "wrong usage or configuration", cli.Any(config.ErrInvalid), "correct the configuration where the message says"),
		cli.On(2, "", cli.IsUsage, ""), // its hint names the command
		cli.On(2, "", cli.Any(trust.ErrRoot, device.ErrNoRoot), `put the root.json that "tandem-release repo init" named there`),
		cli.On(2, "", cli.Any(lock.ErrPlace), "correct lock, or pid_file, in the section [agent] of the configuration"),
		cli.On(2, "", cli.Any(backup.ErrApplicationFile), "a release or tandem bump changes it"),
		cli.On(1, "", cli.Any(backup.ErrNoSuchPath), "name it as the messages do, below apps, such as etc/hello.conf"),
		cli.On(60, "another tandem is at work", cli.Any(lock.ErrBusy), "wait until it is done, or stop it, then try again"),
		cli.On(51, "unhealthy: rolled back", cli.Any(device.ErrUnhealthy), "the version is revoked: a higher one is taken, or this one with --allow-revoked"),
		cli.On(50, "hook refused or postponed", cli.Any(child.ErrPostponed), "try again later"),
		cli.On(50, "", cli.Any(device.ErrHook), "correct the hook, whose messages are above; the version is not revoked, and can be installed then"),
		cli.On(50, "", cli.Any(child.ErrNotRun), "see whether that program runs by hand; the agent asks it again"),
		cli.On(50, "", cli.Any(child.ErrRefused), "the hook's output above says why; nothing was changed"),
		cli.On(1, "", cli.Any(backup.ErrBusy), "run it again when the application is at rest, or let [hooks] capture make it hold still"),
		cli.On(12, "", cli.Any(backup.ErrBlocked), "take away what stands there, such as a mount or chattr +i, then try again"),
		cli.On(1, "", cli.Any(backup.ErrNothingToReturnTo), "install a bundle of the version that you want, with --allow-downgrade"),
		cli.On(40, "not enough space", cli.Any(backup.ErrNoSpace, ota.ErrNoSpace), "make room on that file system, then try again"),
		cli.On(12, "", forbidden, "run it as root, such as with sudo"),
		cli.On(12, "a side is not mounted or not writable", cli.Any(backup.ErrUnavailable, ota.ErrNotWritable),
			"mount the partition read-write, or correct path and mount in the configuration"),
		cli.On(1, "", cli.Any(ota.ErrBudget), "raise max_download in [agent], or install the bundle from a file"),
		cli.On(30, "source unreachable", cli.Any(ota.ErrUnreachable), "see whether the network and [source] url are right; the next attempt goes on where this one stopped"),
		cli.On(31, "source's answer refused", cli.Any(ota.ErrRefused), "see whether something between here and the server answers in its place or changes what it sends"),
		cli.On(20, "refused: not signed by this device's root", cli.Any(trust.ErrUntrusted), "use a bundle that was signed with the keys of this device's root.json"),
		cli.On(13, "made by a newer Tandem", cli.Any(bundle.ErrCodec, backup.ErrNewer), "update Tandem on this device first"),
		cli.On(24, "malformed bundle", cli.Any(bundle.ErrMalformed), "fetch or copy the bundle again"),
		cli.On(21, "", cli.Any(bundle.ErrBase), "get the whole bundle, or one that builds on a version that is here"),
		cli.On(21, "refused: for other hardware or application", cli.Any(ota.ErrIncompatible), "get the bundle that was made for this device, or correct app and compatible in [device]"),
		cli.On(22, "refused: older than what is installed", cli.Any(backup.ErrDowngrade), "--allow-downgrade installs it all the same"),
		cli.On(23, "refused: revoked", cli.Any(backup.ErrRevoked), "--allow-revoked installs it all the same"),
		cli.On(10, "no application on either side", cli.Any(backup.ErrNoApplication), "install a bundle with: tandem install FILE"),
		cli.On(11, "damage remains", cli.Any(backup.ErrDamage), `"tandem verify --repair" repairs what the other side still has; "tandem install --reinstall FILE" replaces the rest`),
		cli.On(1, "", cli.Any(doctor.ErrFindings), "each finding says what to do"),
		cli.On(1, "", cli.Any(fs.ErrPermission), "run it as root, such as with sudo"),
		cli.On(1, "", cli.Any(deviceFaults...), "the kernel could not do it: its log says more, such as with dmesg"),
		cli.On(1, "any other failure", nil, ""),
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
