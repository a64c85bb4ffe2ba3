// Command tandem-release makes, signs and publishes releases. It runs on a
// build machine and holds what a device must not have: the means to sign.
package main

import (
	"context"
	"crypto/rand"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tandem/internal/cli"
)

func main() {
	cli.OutlivePipes()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &program{
		stdout: cli.Unread(os.Stdout),
		stderr: cli.Unread(os.Stderr),
		lookup: os.LookupEnv,
		now:    time.Now,
		random: rand.Reader,
		prompt: terminal(os.Stdin, os.Stderr),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
