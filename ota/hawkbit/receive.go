package hawkbit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sirupsen/logrus"

	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// receive reads an action. One that is known has new modes only; of one that is new
// each artifact is looked at before anything is begun.
func (s *Source) receive(ctx context.Context, st *State, o offered, f *Facts) (again bool, err error) {
	d, err := s.c.deployment(ctx, "deploymentBase", o)
	if errors.Is(err, errVanished) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	log := s.o.Log.WithFields(logrus.Fields{"action": o.number, "download": d.Download, "update": d.Update})
	a := st.Action
	if a == nil || a.Number != o.number || a.Step == Ended {
		a = &Action{Number: o.number, Step: Open}
	}
	fresh := !a.Looked
	if fresh {
		found, err := s.look(ctx, d)
		if errors.Is(err, errMissing) {
			return false, s.missed(st, a, err)
		}
		if err != nil {
			return false, err
		}
		a.Looked, a.Parts, a.Misses = true, chooseParts(found, f, s.o.Compatible), 0
		a.Set = s.setOf(d, a.Parts)
	}
	a.Query, a.Download, a.Update, a.Window = o.query, d.Download, d.Update, d.Window
	st.Action = a
	if err := s.save(st); err != nil {
		return false, err
	}
	if judge(a, f).outcome != nil {
		return true, nil
	}
	if !fresh {
		log.Info("the server has changed its wish")
		return false, nil
	}
	log.Info("the server wants an update")
	return false, s.progress(ctx, a.Number, status{Execution: proceeding, Details: started(a)})
}

func started(a *Action) []string {
	var all []string
	for _, p := range a.Parts {
		all = append(all, fmt.Sprintf("%s %s: %s, %d bytes", p.App, p.Version, p.Artifact, p.Size))
	}
	return all
}

// missed counts that an artifact was not there. The server may have called its
// action off meanwhile: the next poll tells.
func (s *Source) missed(st *State, a *Action, why error) error {
	if a.Misses++; a.Misses >= maxMisses {
		a.Looked, a.Parts = true, []Part{{Artifact: "an artifact", Failed: why.Error(), Code: codeOther}}
	}
	st.Action = a
	if err := s.save(st); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ota.ErrUnreachable, why)
}

// progress reports what the server can do without: what it refuses is dropped.
func (s *Source) progress(ctx context.Context, number int64, r status) error {
	r.Result = result{none}
	err := s.c.report(ctx, "deploymentBase", number, r)
	if errors.Is(err, errTooMuch) || errors.Is(err, errVanished) {
		s.o.Log.WithError(err).Debug("the server does not take the progress")
		return nil
	}
	return err
}

// setKey is the key of a module's metadata that names its distribution set.
const setKey = "distribution-set"

// setOf finds out which set an action brings, which the protocol does not tell.
func (s *Source) setOf(d *deployment, parts []Part) *Set {
	var v versioning.Version
	for _, p := range parts {
		if p.Kind == release.App {
			v = p.Version
		}
	}
	name := s.o.SetName
	for _, c := range d.Chunks {
		for _, m := range c.Metadata {
			if m.Key == setKey {
				name = m.Value
			}
		}
	}
	name, version, ok := strings.Cut(name, ":")
	if !ok {
		version = v.String()
	}
	if name == "" || version == "" {
		return nil
	}
	return &Set{name, version}
}

// Failed durably notes that a file of the open action cannot be taken, and why.
// The next Sync makes it the outcome.
func (s *Source) Failed(sum digest.SHA256, cause error) error {
	return s.part(sum, func(p *Part) { p.Failed, p.Code = cutRunes(cause.Error(), 4*maxDetail), s.o.Code(cause) })
}

// maxDoubts is how often what a server sends as a file may be refused until that file is.
const maxDoubts = 3

// Doubted is Failed, once the file was refused so often: what came may have been another one.
func (s *Source) Doubted(sum digest.SHA256, cause error) error {
	return s.part(sum, func(p *Part) {
		if p.Doubts++; p.Doubts >= maxDoubts {
			p.Failed, p.Code = cutRunes(cause.Error(), 4*maxDetail), s.o.Code(cause)
		}
	})
}

// part durably changes what is noted of a file of the open action.
func (s *Source) part(sum digest.SHA256, change func(*Part)) error {
	st, err := s.load()
	if err != nil {
		return err
	}
	if st.Action == nil || st.Action.Step != Open {
		return nil
	}
	for i := range st.Action.Parts {
		if p := &st.Action.Parts[i]; p.SHA256 == sum && p.Failed == "" {
			change(p)
			return s.save(st)
		}
	}
	return nil
}
