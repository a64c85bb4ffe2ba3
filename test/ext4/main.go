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
		kernel, err := machine.Fetch(ctx, o.Cache, machine.AMD64, map[string]string{"mke2fs": "e2fsprogs", "mkfs.f2fs": "f2fs-tools", "mkfs.vfat": "dosfstools"})
		if err != nil {
			return err
		}
		modules, err := kernel.Modules([]string{"crc32c_generic", "crc32_generic", "nls_cp437", "nls_ascii", "nls_iso8859-1"}, []string{"brd", "dm-mod", "dm-log-writes", "ext4", "f2fs", "vfat"})
		if err != nil {
			return err
		}
		root, err := machine.Root(ctx, o.Dir, "./test/ext4/guest", o.Tandem, machine.Small, machine.Usual)
		if err != nil {
			return err
		}
		if err := makeBlank(ctx, root); err != nil {
			return err
		}
		return o.Run(ctx, machine.Machine{Kernel: kernel, Modules: modules, Files: root})
	})
}

// makeBlank makes empty file systems. Blocks and journal of the one whose writes are
// recorded are small, so that as many different things as possible are in the record.
func makeBlank(ctx context.Context, root string) error {
	for _, b := range []struct {
		kind string
		size int64
		make []string
	}{
		{"ext4", 8 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", "-N", "1024", "-m", "0",
			"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"}},
		{"f2fs", 64 << 20, []string{"mkfs.f2fs", "-q"}},
		{"vfat", 8 << 20, []string{"mkfs.vfat"}},
	} {
		name := filepath.Join(root, b.kind+".img")
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(name, b.size); err != nil {
			return err
		}
		if _, err := machine.Output(ctx, "", nil, b.make[0], append(b.make[1:], name)...); err != nil {
			return err
		}
	}
	return nil
}
