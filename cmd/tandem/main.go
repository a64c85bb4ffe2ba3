//go:build !manpages

// Command tandem is what a device carries: it keeps the application up to date
// and a second copy of it in step.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	limitMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &program{
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
		now:      time.Now,
		euid:     os.Geteuid(),
		egid:     os.Getegid(),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
