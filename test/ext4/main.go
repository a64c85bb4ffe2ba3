// Command ext4 runs tandem on ext4, on a disk whose every write is recorded: a
// machine in QEMU with Debian's own kernel, dm-log-writes, two partitions, and
// the built program. It lets the power fail at points of that record, leaves
// out what was not flushed, and checks what is left after each cut.
package main

import (
	"context"
	"os"
	"path/filepath"

	"tandem/test/internal/machine"
)

func main() {
	machine.Main("ext4", func(ctx context.Context, o machine.Options) error {
		kernel, err := machine.Fetch(ctx, o.Cache, machine.AMD64, map[string]string{"mke2fs": "e2fsprogs"})
		if err != nil {
			return err
		}
		modules, err := kernel.Modules([]string{"crc32c_generic"}, []string{"brd", "dm-mod", "dm-log-writes", "ext4"})
		if err != nil {
			return err
		}
		root, err := machine.Root(ctx, o.Dir, "./test/ext4/guest", o.Tandem, machine.Small, machine.Usual)
		if err != nil {
			return err
		}
		if err := makeBlank(ctx, filepath.Join(root, "blank.img")); err != nil {
			return err
		}
		return o.Run(ctx, machine.Machine{Kernel: kernel, Modules: modules, Files: root})
	})
}

// makeBlank makes an empty file system. Its blocks and journal are small, so
// that as many different things as possible are in the record.
func makeBlank(ctx context.Context, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = f.Truncate(8 << 20)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	_, err = machine.Output(ctx, "", nil, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", "-N", "1024", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", name)
	return err
}
