// Command patches compares the patches of packaging/delta with those of others,
// on pairs of real releases: how large they are, and what making and applying
// them takes. It fetches programs and peers through go, npm, apt-get and pip; what cannot be
// had is told and left out.
//
// Peers are bsdiff with its streams compressed anew by xz, xdelta3, zstd
// --patch-from, detools (the best of its forms) and hdiffpatch.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "patches:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && (args[0] == "make" || args[0] == "apply") {
		return work(ctx, args[0], args[1:])
	}
	if len(args) > 1 && args[0] == "run" {
		return runMeasured(ctx, args[1], args[2:]...)
	}
	f := flag.NewFlagSet("patches", flag.ContinueOnError)
	dir := f.String("dir", ".cache/patches", "folder for what is fetched and built")
	only := f.String("run", "", "pairs whose name the regular expression matches")
	old := f.String("old", "", "compare this folder, instead of the pairs …")
	new := f.String("new", "", "… with this one")
	if err := f.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx}
	if b.dir, err = filepath.Abs(*dir); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	b.tools = b.findTools()
	b.header(os.Stdout)
	if *old != "" {
		return b.compare(os.Stdout, pair{name: filepath.Base(*new), kind: program}, *old, *new)
	}
	for _, p := range pairs() {
		if !match.MatchString(p.name) {
			continue
		}
		a, c, err := b.fetch(p)
		if err == nil {
			err = b.compare(os.Stdout, p, a, c)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Printf("%-22s left out: %s\n", p.name, strings.TrimSpace(err.Error()))
		}
	}
	b.footer(os.Stdout)
	return nil
}
