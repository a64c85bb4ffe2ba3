package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Running is a machine that runs on its own. Its first serial line, the console,
// goes to a file; the second one is a connection to whatever listens there.
type Running struct {
	Port  net.Conn
	cmd   *exec.Cmd
	dir   string
	ended chan error
}

// Start starts the machine with the console going to a file. It runs until it
// ends, ctx does, or Off is called, which has to be in any case.
func (m Machine) Start(ctx context.Context, console string) (_ *Running, err error) {
	dir, err := os.MkdirTemp("", "tandem-machine-")
	if err != nil {
		return nil, err
	}
	r := &Running{dir: dir, ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	if r.cmd, err = m.command(ctx, dir); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "port"))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	r.cmd.Args = append(r.cmd.Args, "-display", "none", "-monitor", "none",
		"-serial", "file:"+console, "-serial", "unix:"+filepath.Join(dir, "port"))
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { r.ended <- r.cmd.Wait() }()
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(m.Timeout)); err != nil {
		return nil, err
	}
	if r.Port, err = l.Accept(); err != nil {
		return nil, errors.Join(fmt.Errorf("qemu did not open the machine's second serial line: %w", err), r.Off())
	}
	return r, nil
}

// Off takes the machine's power away, unless it has ended. What it had not
// written to its disks is lost.
func (r *Running) Off() error {
	if r.Port != nil {
		r.Port.Close()
	}
	err := r.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-r.ended // it was killed
	return errors.Join(err, os.RemoveAll(r.dir))
}
