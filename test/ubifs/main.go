// Command ubifs runs tandem on real UBIFS: a machine in QEMU with Debian's own
// kernel, simulated NAND, two UBI volumes, and the built program. It cuts the
// power as often as its time allows and checks what is left after each cut.
package main

import (
	"context"

	"tandem/test/internal/machine"
)

func main() {
	machine.Main("ubifs", func(ctx context.Context, o machine.Options) error {
		kernel, err := machine.Fetch(ctx, o.Cache, machine.AMD64, nil)
		if err != nil {
			return err
		}
		// UBIFS refuses to load without its compressors, which nothing says it
		// depends on. A newer kernel has some of them built in.
		modules, err := kernel.Modules([]string{"lzo", "lzo-rle", "deflate", "zstd"}, []string{"nandsim", "ubi", "ubifs"})
		if err != nil {
			return err
		}
		root, err := machine.Root(ctx, o.Dir, "./test/ubifs/guest", o.Tandem, machine.Usual, machine.Small, machine.Tight)
		if err != nil {
			return err
		}
		return o.Run(ctx, machine.Machine{Kernel: kernel, Modules: modules, Files: root})
	})
}
