package e2e

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The service manager hears when the agent is ready, what it does, that it is
// alive, and that it ends.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	d := installed(t, options{})
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.path("notify"), Net: "unixgram"})
	d.check(err)
	defer conn.Close()
	d.check(conn.SetReadDeadline(time.Now().Add(atLast)))
	cmd := d.command(context.Background(), "agent")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+d.path("notify"), "WATCHDOG_USEC=200000")
	p, err := startProcess(cmd)
	d.check(err)
	defer p.kill()
	var heard []string
	hear := func(what string) int {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("the agent never said %s, but %q: %v", what, heard, err)
			}
			heard = append(heard, string(buf[:n]))
			if strings.HasPrefix(heard[len(heard)-1], what) {
				return len(heard) - 1
			}
		}
	}
	hear("READY=1")
	for range 3 { // it lives on
		hear("WATCHDOG=1")
	}
	order, err := startProcess(d.command(context.Background(), "confirm"))
	d.check(err)
	defer order.kill()
	hear("STATUS=confirming")
	d.check(cmd.Process.Signal(syscall.SIGTERM))
	hear("STOPPING=1")
	if i, ready := slices.Index(heard, "EXTEND_TIMEOUT_USEC=200000"), slices.Index(heard, "READY=1"); i < 0 || i > ready {
		t.Errorf("it did not ask for time to come up: %q", heard)
	}
	if !slices.ContainsFunc(heard, func(s string) bool { return strings.HasPrefix(s, "STATUS=idle") }) {
		t.Errorf("the agent never said that it is idle: %q", heard)
	}
}
