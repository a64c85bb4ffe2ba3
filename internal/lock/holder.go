package lock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
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
		var kind, mode, access, where string
		var n int
		if _, err := fmt.Sscanf(string(line), "%d: %s %s %s %d %s", new(int), &kind, &mode, &access, &n, &where); err != nil {
			continue // those who wait have an arrow there
		}
		if kind == "FLOCK" && strings.HasSuffix(where, fmt.Sprintf(":%d", inode)) {
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
