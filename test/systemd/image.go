package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tandem/test/internal/machine"
)

// suite is the Debian that the machine runs.
const suite = "bookworm"

// include are the packages beyond Debian's base: what a device with systemd has,
// and what the lab looks at attributes with.
var include = []string{"systemd", "systemd-sysv", "dbus", "udev", "kmod", "e2fsprogs", "attr", "acl", "libcap2-bin", "logrotate"}

// programs are what makes the machine, by command and package.
var programs = map[string]string{"debootstrap": "debootstrap", "mke2fs": "e2fsprogs"}

// units are put into the machine. The guest has to be reachable in whatever state
// the machine is, also in emergency mode.
const guestUnit = `[Unit]
Description=Carry out what the lab wants
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=/usr/local/sbin/lab-guest
Restart=always
StandardOutput=null
StandardError=journal

[Install]
WantedBy=sysinit.target emergency.target
`

// prepare makes of Debian's base what the machine starts from.
const prepare = `set -e
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/doc/* usr/share/locale/* usr/share/man/*
echo lab >etc/hostname
: >etc/machine-id
rm -f etc/ssh etc/resolv.conf
mkdir -p usrapp usrdata lab
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer logrotate.timer systemd-timesyncd.service getty@.service serial-getty@.service systemd-pcrphase.service; do
	ln -sf /dev/null etc/systemd/system/$unit
done
for target in sysinit emergency; do
	mkdir -p etc/systemd/system/$target.target.wants
	ln -sf ../lab-guest.service etc/systemd/system/$target.target.wants/lab-guest.service
done
`

// baseImage makes a disk image of Debian once, from wherever apt gets its packages
// on this computer, and returns its name.
func baseImage(ctx context.Context, cache string) (string, error) {
	key := sha256.Sum256([]byte(suite + strings.Join(include, " ") + guestUnit + prepare))
	image := filepath.Join(cache, fmt.Sprintf("debian-%s-%x.ext4", suite, key[:6]))
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("making a Debian takes root")
	}
	fmt.Println("== making a Debian, once")
	root := filepath.Join(cache, "debian-root")
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	out, err := machine.Output(ctx, "", nil, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: "+suite)
	if err != nil {
		return "", err
	}
	mirror, _, _ := strings.Cut(out, "\n")
	if mirror == "" {
		return "", fmt.Errorf("apt has no source of Debian's %s", suite)
	}
	if _, err := machine.Output(ctx, "", nil, "debootstrap", "--variant=minbase", "--include="+strings.Join(include, ","), suite, root, mirror); err != nil {
		return "", err
	}
	if _, err := machine.Output(ctx, root, nil, "sh", "-c", prepare); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "etc/systemd/system/lab-guest.service"), []byte(guestUnit), 0o644); err != nil {
		return "", err
	}
	made := image + ".new"
	if _, err := machine.Output(ctx, "", nil, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-d", root, made, "1200M"); err != nil {
		return "", err
	}
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	return image, os.Rename(made, image)
}

// disk makes an image with a file system, filled from a folder if there is one.
func disk(ctx context.Context, name, label, size, from string) error {
	args := []string{"-q", "-F", "-t", "ext4", "-L", label}
	if from != "" {
		args = append(args, "-d", from)
	}
	_, err := machine.Output(ctx, "", nil, "mke2fs", append(args, name, size)...)
	return err
}

// first is the machine's first program: it loads what the disks need and hands
// over to systemd.
const first = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox cp /lab-guest /root/usr/local/sbin/lab-guest
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
`
