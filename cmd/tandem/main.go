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

	"tandem/internal/cli"
)

// umask is set whatever it was: what Tandem makes does not depend on who starts
// it, and nothing of it can be written by others, not even for a moment.
const umask = 0o022

func main() {
	limitMemory()
	cli.OutlivePipes()
	syscall.Umask(umask)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &program{
		stdin:    os.Stdin,
		stdout:   cli.Unread(os.Stdout),
		stderr:   cli.Unread(os.Stderr),
		children: os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
		now:      time.Now,
		euid:     os.Geteuid(),
		egid:     os.Getegid(),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
