//go:build !manpages

// Command tandem is what a device carries: it keeps the application up to date
// and a second copy of it in step.
package main

import (
	"context"
	"io"
	"log"
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
	log.SetOutput(io.Discard) // net/http tells there what strangers do
	syscall.Umask(umask)
	code := run(interruptible(p), p, os.Args[1:])
	if len(os.Args) > 1 {
		p.decided(os.Args[1])
	}
	os.Exit(code)
}

// interruptible returns a context that SIGINT and SIGTERM end: its cause is the signal.
// Each further SIGINT is told to p.
func interruptible(p *program) context.Context {
	ctx, end := context.WithCancelCause(context.Background())
	signals, again := make(chan os.Signal, 4), make(chan struct{}, 1)
	p.again = again
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range signals {
			if ctx.Err() == nil {
				end(&signalled{s})
			} else if s == os.Interrupt {
				select {
				case again <- struct{}{}:
				default:
				}
			}
		}
	}()
	return ctx
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
