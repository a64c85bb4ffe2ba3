// Command ubifs runs tandem on real UBIFS: a machine in QEMU with Debian's own
// kernel, simulated NAND, two UBI volumes, and the built program. It cuts the
// power as often as its time allows and checks what is left after each cut.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	budget time.Duration
	seed   int64
	cache  string
	tandem string
	keep   bool
}

func main() {
	var o options
	flag.DurationVar(&o.budget, "budget", 3*time.Minute, "time for power cuts")
	flag.Int64Var(&o.seed, "seed", time.Now().UnixNano()%1e9, "seed of the random choices")
	flag.StringVar(&o.cache, "cache", ".cache/ubifs", "`folder` for kernel and packages")
	flag.StringVar(&o.tandem, "tandem", "", "a static tandem to test, such as one with a planted bug (default: built from here)")
	flag.BoolVar(&o.keep, "keep", false, "keep the files that the machine was started from")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "ubifs: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	kernel, err := fetch(ctx, o.cache)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tandem-ubifs-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Println("files:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if err := build(ctx, dir, o.tandem); err != nil {
		return err
	}
	if err := makeReleases(ctx, dir); err != nil {
		return err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := makeInitrd(initrd, dir, kernel); err != nil {
		return err
	}
	return boot(ctx, kernel, initrd, o)
}

// build makes the static programs of the machine, below dir/bin.
func build(ctx context.Context, dir, tandem string) error {
	bin := filepath.Join(dir, "bin")
	targets := []string{"./cmd/tandem-release", "./test/ubifs/guest"}
	if tandem == "" {
		targets = append(targets, "./cmd/tandem")
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", bin + "/"}, targets...)
	if _, err := output(ctx, "", []string{"CGO_ENABLED=0"}, "go", args...); err != nil {
		return err
	}
	if tandem == "" {
		return nil
	}
	data, err := os.ReadFile(tandem)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bin, "tandem"), data, 0o755)
}

// boot starts the machine and passes on what it prints. The last line says
// whether all was well. It emulates the processor, which works everywhere.
func boot(ctx context.Context, k kernel, initrd string, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 2*o.budget+10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", k.image, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet loglevel=1 panic=-1 LAB_BUDGET=%s LAB_SEED=%d", o.budget, o.seed))
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	result := ""
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if r, ok := strings.CutPrefix(line, "LAB-RESULT "); ok {
			result = r
		} else if line != "" {
			fmt.Println(line)
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	switch result {
	case "ok":
		return nil
	case "":
		return fmt.Errorf("the machine ended without a result")
	}
	return fmt.Errorf("the machine found: %s", result)
}

// output runs a program; what it said on standard error is in the error.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
