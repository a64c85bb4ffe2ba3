package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/agent"
	"tandem/agent/device"
	"tandem/internal/config"
	"tandem/internal/handover"
	"tandem/internal/lock"
)

// remote is the agent that runs here, over its socket.
type remote struct {
	p    *program
	dial func(ctx context.Context) (*net.UnixConn, error)
	http *http.Client
}

// handed is a body that is not sent: the agent gets the open file, and reads it
// itself. What it could open by the name may be another file, or none: a service
// has a /tmp of its own.
type handed struct{ *os.File }

// remoteError is what the agent says went wrong.
type remoteError struct{ device.Failure }

func (e *remoteError) Error() string { return e.Failure.Error }

// Outcome is what the agent says of it.
func (e *remoteError) Outcome() (exit int, hint string) { return e.Exit, e.Hint }

// errMute says that the agent that runs here does not answer. It wraps lock.ErrBusy.
var errMute = &hintedError{fmt.Errorf("%w: the agent does not answer", lock.ErrBusy), "see what its log says last; if it stays like that, kill it: its next start goes on from there"}

// muteTime is how long an agent may take to say that it is there: it does so while it
// works, too.
const muteTime = 10 * time.Second

// agentHere finds the agent that works with the same lock; nil if none runs. The error is
// errMute, or that of ctx.
func (p *program) agentHere(ctx context.Context, cfg *config.Config) (*remote, error) {
	dial := func(ctx context.Context) (*net.UnixConn, error) {
		dir, err := os.Open(filepath.Dir(cfg.Agent.Socket))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		// The path may be longer than a socket's name can be.
		name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(cfg.Agent.Socket))
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", name)
		if err != nil {
			return nil, err
		}
		return conn.(*net.UnixConn), nil
	}
	limited, cancel := context.WithTimeout(ctx, muteTime)
	defer cancel()
	conn, err := dial(limited)
	if err != nil {
		return nil, ctx.Err()
	}
	conn.Close()
	r := &remote{p, dial, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
	resp, err := r.do(limited, http.MethodGet, "/v1/agent", nil, nil)
	switch {
	case err == nil:
		resp.Body.Close()
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, errMute
	}
	return r, nil // what else it says, it says to what it is asked
}

// offering is a client that hands f over with its first request.
func (r *remote) offering(f *os.File) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := r.dial(ctx)
			if err != nil {
				return nil, err
			}
			return handover.Offer(conn, f), nil
		},
	}}
}

// status asks for the agent's status.
func (r *remote) status(ctx context.Context) (*device.Status, error) {
	resp, err := r.do(ctx, http.MethodGet, "/v1/status", nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s device.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("the agent's answer: %w", err)
	}
	return &s, nil
}

func (r *remote) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	client := r.http
	if h, ok := body.(handed); ok {
		client, body = r.offering(h.File), nil
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	if hook := os.Getenv(device.HookVariable); hook != "" {
		req.Header.Set(agent.HookHeader, hook)
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("the agent: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f device.Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&f); err != nil || f.Error == "" {
		return nil, fmt.Errorf("the agent answered %s", resp.Status)
	}
	return nil, &remoteError{f}
}

// command has the agent carry out a command, shows what it tells meanwhile, and
// gives its document in doc. It reports whether there is one.
func (r *remote) command(ctx context.Context, path string, query url.Values, body io.Reader, doc any) (bool, error) {
	resp, err := r.do(ctx, http.MethodPost, path, query, body)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	defer r.p.stderr.Done()
	log := r.p.logger()
	lines := json.NewDecoder(resp.Body)
	for {
		var l agent.Line
		if err := lines.Decode(&l); err != nil {
			if ctx.Err() != nil {
				return false, r.interrupted(ctx)
			}
			return false, fmt.Errorf("the agent ended before the command did: %w", err)
		}
		switch {
		case l.Progress != nil:
			r.p.progress(l.Progress.What, l.Progress.Done, l.Progress.Total)
		case l.Message != nil:
			level, err := logrus.ParseLevel(l.Message.Level)
			if err != nil {
				level = logrus.InfoLevel
			}
			entry := logrus.NewEntry(log)
			for k, v := range l.Message.Fields {
				entry = entry.WithField(k, v)
			}
			entry.Log(level, l.Message.Text)
		case l.Failure != nil:
			if l.Result != nil {
				err = json.Unmarshal(l.Result, doc)
			}
			if l.Failure.Exit != 0 {
				err = errors.Join(&remoteError{*l.Failure}, err)
			}
			return l.Result != nil, err
		}
	}
}

// errGoesOn says what is true when somebody interrupts a command that the agent
// carries out.
var errGoesOn = &hintedError{errors.New("interrupted; the agent goes on with it"), `"tandem cancel" ends it`}

// signalled is why a command was interrupted. It wraps context.Canceled.
type signalled struct{ os.Signal }

func (s *signalled) Error() string { return s.String() }
func (s *signalled) Unwrap() error { return context.Canceled }

// secondThoughts is how long a person has to press Ctrl-C once more.
const secondThoughts = 3 * time.Second

// interrupted says what is true of a command that the agent goes on with, and lets a
// person who pressed Ctrl-C cancel it by another one.
func (r *remote) interrupted(ctx context.Context) error {
	var s *signalled
	if !errors.As(context.Cause(ctx), &s) || s.Signal != os.Interrupt {
		return errGoesOn
	}
	r.p.stderr.Done()
	r.p.say("tandem: the agent goes on with it; Ctrl-C once more within %d seconds cancels it", secondThoughts/time.Second)
	t := time.NewTimer(secondThoughts)
	defer t.Stop()
	select {
	case <-t.C:
		return errGoesOn
	case <-r.p.again:
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), secondThoughts)
	defer cancel()
	doc, err := r.cancel(ctx)
	if err != nil {
		return err
	}
	if len(doc.Cancelled) == 0 {
		return errors.New("interrupted; it had come to its end")
	}
	return errors.New("cancelled: " + strings.Join(doc.Cancelled, ", "))
}

// cancel has the agent cancel what is under way.
func (r *remote) cancel(ctx context.Context) (doc agent.Cancelled, err error) {
	resp, err := r.do(ctx, http.MethodPost, "/v1/cancel", nil, nil)
	if err != nil {
		return doc, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return doc, fmt.Errorf("the agent's answer: %w", err)
	}
	return doc, nil
}

// carryOut carries a command out: by the agent, if one runs here, else by itself.
func carryOut[T any](ctx context.Context, p *program, path string, query url.Values, body io.Reader, local func(*device.Device) (*T, error)) (doc *T, err error) {
	cfg, err := config.Load(p.config)
	if err != nil {
		return nil, err
	}
	r, err := p.agentHere(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if r == nil {
		err = p.open(device.Change, func(d *device.Device) error {
			doc, err = local(d)
			return err
		})
		return doc, err
	}
	doc = new(T)
	there, err := r.command(ctx, path, query, body, doc)
	if !there {
		return nil, err
	}
	return doc, err
}
