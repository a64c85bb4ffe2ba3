//go:build !manpages

// Command tandem is what a device carries: it keeps the application up to date
// and a second copy of it in step.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/term"

	"tandem/internal/cli"
)

// umask is set whatever it was: what Tandem makes does not depend on who starts
// it, and nothing of it can be written by others, not even for a moment.
const umask = 0o022

func main() {
	p := &program{
		stdin:    os.Stdin,
		stdout:   cli.Unread(os.Stdout),
		stderr:   cli.NewScreen(cli.Unread(os.Stderr), time.Now, columns),
		children: os.Stderr,
		now:      time.Now,
		euid:     os.Geteuid(),
		egid:     os.Getegid(),
	}
	// Scripts ask for the version again and again: that needs nothing of the rest.
	if slices.Equal(os.Args[1:], []string{"version"}) && p.printVersion() == nil {
		return
	}
	limitMemory()
	cli.OutlivePipes()
	syscall.Umask(umask)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, p, os.Args[1:])
	if len(os.Args) > 1 {
		decided(os.Args[1], code)
	}
	stop()
	os.Exit(code)
}

// columns is how wide the terminal is that messages go to; 0 if they go to none,
// or to one that draws nothing over.
func columns() int {
	if t := os.Getenv("TERM"); t == "" || t == "dumb" {
		return 0
	}
	width, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil {
		return 0
	}
	return width
}
