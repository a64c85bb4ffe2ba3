package lock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// holder says who holds a file or directory, as far as the kernel tells: such as
// "tandem update (process 123)".
func holder(name string) string {
	const nobody = "it"
	info, err := os.Stat(name)
	if err != nil {
		return nobody
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nobody
	}
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nobody
	}
	pid := holding(table, st.Ino)
	if pid <= 0 { // one that cannot be seen from here
		return nobody
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(command) == 0 {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (process %d)", called(command), pid)
}

// holding returns the process that holds a lock on an inode, by the table that
// proc_locks(5) describes; 0 if none does. Inode numbers suffice: some file
// systems have another device there than stat tells.
func holding(table []byte, inode uint64) (pid int) {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line)) // those who wait have an arrow before the kind
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], fmt.Sprintf(":%d", inode)) {
			continue
		}
		if n, err := strconv.Atoi(f[4]); err == nil {
			return n
		}
	}
	return 0
}

// called returns a command as it was called, without the directory of the program.
func called(cmdline []byte) string {
	const enough = 100
	words := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	words[0] = filepath.Base(words[0])
	text := strings.Join(words, " ")
	if len(text) > enough {
		text = text[:enough] + "…"
	}
	return text
}
