package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxRest is what the daemon may take at rest: its resident memory, in bytes.
const maxRest = 24 << 20

// program is a daemon that runs.
type program struct {
	cmd *exec.Cmd
	log *os.File
}

func (p *published) start(file string) (*program, error) {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(file), "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(p.dir, "tandem"), "--config", file, "agent")
	cmd.Stderr = log
	return &program{cmd, log}, cmd.Start()
}

func (r *program) end(s os.Signal) {
	_ = r.cmd.Process.Signal(s) // it may have ended by itself
	_ = r.cmd.Wait()
	r.log.Close()
}

// rss is the resident memory, in bytes.
func (r *program) rss() (int64, error) {
	return r.status("/proc/"+strconv.Itoa(r.cmd.Process.Pid)+"/status", "VmRSS:", 1<<10)
}

func (r *program) status(file, key string, unit int64) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n * unit, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}

// killed runs the built program for so long, kills it at random moments, edits
// configuration and publishes releases. At its end both sides are in step.
func killed(ctx context.Context, p *published, d time.Duration, seed uint64) error {
	n, end, err := newNetwork(p.repo, seed)
	if err != nil {
		return err
	}
	defer end()
	file, err := p.device("killed", n.url, "poll = \"1s\"\nscrub = \"5s\"")
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 4))
	until := time.Now().Add(d)
	kills, edits := 0, 0
	var most int64
	open := sample{}
	for time.Now().Before(until) && ctx.Err() == nil {
		a, err := p.start(file)
		if err != nil {
			return err
		}
		for range 1 + random.IntN(10) {
			pause(ctx, time.Duration(random.IntN(1000))*time.Millisecond)
			name := filepath.Join(filepath.Dir(file), "system/apps/etc", fmt.Sprintf("%d.conf", random.IntN(3)))
			if os.WriteFile(name, fmt.Appendf(nil, "edit = %d\n", random.Uint64()), 0o644) == nil { // else no version is there yet
				edits++
			}
			memory, errM := a.rss()
			fds, errD := descriptors(strconv.Itoa(a.cmd.Process.Pid))
			if err := errors.Join(errM, errD); err != nil {
				a.end(syscall.SIGKILL)
				return fmt.Errorf("the agent has ended: %w", err)
			}
			most = max(most, memory)
			open = open.least(sample{Descriptors: fds})
		}
		a.end(syscall.SIGKILL)
		kills++
		if random.IntN(5) == 0 {
			if err := p.add(ctx); err != nil {
				return err
			}
		}
	}
	fmt.Printf("killed: %d times in %s; %d polls, %d reports, %d edits; faults: %v; at most %d KiB resident, at least %d descriptors\n",
		kills, d, n.polls, n.posts, edits, n.faults, most>>10, open.Descriptors)
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, "tandem"), "--config", file, "boot", "--quiet")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("boot after the last kill: %w\n%s", err, out)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(p.dir, "tandem"), "--config", file, "verify").CombinedOutput()
	if err != nil {
		return fmt.Errorf("verify after the last kill: %w\n%s", err, out)
	}
	return nil
}

// atRest leaves the built program alone with the usual settings, and requires
// that it takes little memory then and does nothing.
func atRest(ctx context.Context, p *published, d time.Duration) error {
	n, end, err := newNetwork(p.repo, 0)
	if err != nil {
		return err
	}
	defer end()
	n.random = nil
	file, err := p.device("rest", n.url, "poll = \"1h\"")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, "tandem"), "--config", file, "install", filepath.Join(p.dir, "1.0.0.tandem"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install: %w\n%s", err, out)
	}
	a, err := p.start(file)
	if err != nil {
		return err
	}
	defer a.end(syscall.SIGTERM)
	pause(ctx, 10*time.Second) // it comes up, looks around, and reports
	before, err := a.switches()
	if err != nil {
		return err
	}
	pause(ctx, d)
	after, err := a.switches()
	if err != nil {
		return err
	}
	memory, err := a.rss()
	if err != nil {
		return err
	}
	fmt.Printf("at rest: %d KiB resident, at most %d are allowed; %d switches by its own will in %s\n", memory>>10, maxRest>>10, after-before, d)
	if memory > maxRest {
		return fmt.Errorf("at rest: %d KiB resident", memory>>10)
	}
	if perSecond := float64(after-before) / d.Seconds(); perSecond > 1 {
		return fmt.Errorf("at rest: it wakes up %.1f times a second", perSecond)
	}
	return nil
}

// switches counts how often the process's threads went to sleep by themselves,
// which is how often they woke up.
func (r *program) switches() (int64, error) {
	var sum int64
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return 0, errors.Join(err, errors.New("the agent has ended"))
	}
	for _, t := range tasks {
		n, err := r.status(t, "voluntary_ctxt_switches:", 1)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
