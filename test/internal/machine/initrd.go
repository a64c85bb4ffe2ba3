package machine

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// initrd writes the machine's first file system, a cpio archive ("newc"). After
// an error it does nothing more.
type initrd struct {
	w     io.Writer
	inode int
	err   error
}

// writeInitrd packs the guest program as init, and all that it needs.
func writeInitrd(name string, m Machine) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	c := &initrd{w: w}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "bin", "modules"} {
		c.add(d, fs.ModeDir|0o755, nil)
	}
	// The console has to be there before the first program runs.
	c.entry("dev/console", 0o020600, 5, 1, nil)
	c.copy("bin/busybox", m.Kernel.Busybox, 0o755)
	for i, mod := range m.Modules {
		c.copy(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(mod)), mod, 0o644)
	}
	c.tree("", m.Files)
	c.add("TRAILER!!!", 0, nil)
	if c.err == nil {
		c.err = w.Flush()
	}
	return c.err
}

func (c *initrd) entry(name string, mode uint32, major, minor int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), data} {
		part = append(part, make([]byte, (4-len(part)%4)%4)...)
		if _, err := c.w.Write(part); err != nil {
			c.err = err
		}
	}
}

func (c *initrd) add(name string, mode fs.FileMode, data []byte) {
	kind := uint32(0o100000)
	switch mode.Type() {
	case fs.ModeDir:
		kind = 0o040000
	case fs.ModeSymlink:
		kind = 0o120000
	}
	c.entry(name, kind|uint32(mode.Perm()), 0, 0, data)
}

func (c *initrd) copy(name, from string, mode fs.FileMode) {
	data, err := os.ReadFile(from)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.add(name, mode, data)
}

func (c *initrd) tree(name, from string) {
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil || rel == "." {
			return err
		}
		to := filepath.Join(name, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch info.Mode().Type() {
		case fs.ModeDir:
			c.add(to, info.Mode(), nil)
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			c.add(to, fs.ModeSymlink|0o777, []byte(target))
		default:
			c.copy(to, p, info.Mode())
		}
		return nil
	})
	if err != nil && c.err == nil {
		c.err = err
	}
}
