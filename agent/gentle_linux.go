package agent

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// beGentle gives this goroutine a thread of its own with the lowest priority for
// processor and disk. The thread ends with the goroutine. Where the kernel does
// not allow it, things go on as they are.
func beGentle() {
	runtime.LockOSThread() // for good: the thread is not to be used for anything else
	const (
		ioprioWhoProcess = 1
		ioprioIdle       = 3 << 13
	)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	_, _, _ = unix.RawSyscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle)
}
