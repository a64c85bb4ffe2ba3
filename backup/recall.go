package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"tandem/backup/change"
	"tandem/backup/manifest"
	"tandem/backup/tree"
)

// What a person asks for by the name of a path.
var (
	// ErrApplicationFile says that a path is not configuration: only a release,
	// or a bump, changes it.
	ErrApplicationFile = errors.New("is part of the application")
	// ErrNoSuchPath says that there is nothing of that name.
	ErrNoSuchPath = errors.New("there is nothing of that name")
)

// Aside is something that was put aside on a side.
type Aside struct {
	Side SideName `json:"side"`
	Path Path     `json:"path"`
	Size int64    `json:"size"` // bytes
	File string   `json:"file"` // where it lies

	it    change.Aside
	ctime int64
}

// ListAside returns what was put aside on both sides, the newest of each path
// first. It changes nothing. Where a side cannot be used the error, beside what the other
// one has, wraps ErrUnavailable.
func (r *Reconciler) ListAside() ([]Aside, error) {
	all := []Aside{}
	var missing error
	for _, s := range r.sides() {
		if err := s.ready(); err != nil {
			if errors.Is(err, ErrUnavailable) {
				missing = errors.Join(missing, err)
			}
			continue
		}
		list, err := change.ListAside(s.FS)
		if err != nil {
			return nil, sideError(s, err)
		}
		for _, a := range list {
			info, err := s.FS.Lstat(a.Name)
			if err != nil {
				return nil, sideError(s, err)
			}
			all = append(all, Aside{Side: s.Name, Path: a.Path, Size: a.Size, File: s.FS.Path(a.Name), it: a, ctime: info.Ctime})
		}
	}
	// Those of one side come in their order already, whatever the clock said.
	sort.SliceStable(all, func(i, j int) bool {
		a, b := &all[i], &all[j]
		if a.Path != b.Path || a.Side == b.Side {
			return a.Path < b.Path
		}
		return a.ctime > b.ctime
	})
	return all, missing
}

// Recall puts a copy of what was put aside last as p in place on system, or below p
// where that is a directory; what lies there goes aside itself. The sides are to be
// reconciled after it.
//
// application says that p may be an application file: then the caller makes what
// lies there a version of its own. Else the error wraps ErrApplicationFile. It
// wraps ErrNoSuchPath where nothing was put aside as p.
//
// After an error or a power cut what was there lies in its place or aside.
func (r *Reconciler) Recall(ctx context.Context, p Path, application bool) ([]Aside, error) {
	list, err := r.ListAside()
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	list = latest(list, p)
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w among what was put aside", p, ErrNoSuchPath)
	}
	res, err := r.inspect(ctx)
	if err != nil && !errors.Is(err, ErrDamage) {
		return nil, err
	}
	basis := res.System.basis()
	if basis == nil {
		return nil, fmt.Errorf("%w: nothing lies on %s that it could be put to", ErrNoApplication, System)
	}
	for _, a := range list {
		if !application && basis.Manifest.Knows(a.Path) && !basis.Manifest.IsConfig(a.Path) {
			return nil, fmt.Errorf("%s: %w", a.Path, ErrApplicationFile)
		}
	}
	for n, a := range list {
		if err := change.Recall(r.side(a.Side).FS, a.it, r.System.FS, r.Now().UnixNano()); err != nil {
			return list[:n], sideError(r.System, fmt.Errorf("recall %s: %w", a.Path, err))
		}
	}
	return list, nil
}

// latest returns of what was put aside as p or below it the newest of each path. Journals come
// with their databases.
func latest(list []Aside, p Path) []Aside {
	var all []Aside
	has := map[Path]bool{}
	for i, a := range list {
		if a.Path == p { // comes before what an earlier directory of that name had
			return list[i : i+1]
		}
		if within(p, a.Path) && !has[a.Path] && !has[manifest.JournalOf(a.Path)] {
			has[a.Path] = true
			all = append(all, a)
		}
	}
	return all
}

// within reports whether p is dir, or lies below it.
func within(dir, p Path) bool { return p == dir || strings.HasPrefix(string(p), string(dir)+"/") }

// goes reports whether q goes where p is forgotten, which it is, is in, or is a journal of.
func goes(p, q Path) bool { return within(p, q) || manifest.JournalOf(q) == p }

// forgets decides that configuration goes which was asked to be forgotten, if
// that can be now. Damage is mended, and a version given up, before.
func (j *job) forgets(res *Result) (bool, error) {
	p := j.forget
	if p == "" || res.Decision.From == UsrData && res.Decision.Action != Nothing {
		return false, nil
	}
	switch res.Decision.Action {
	case Hold:
		return false, fmt.Errorf("%s is not forgotten: %s waits to be confirmed, and usr_data has another version until then", p, res.Decision.To)
	case Nothing, Capture, Repair:
	default:
		return false, nil
	}
	f := res.System.facts
	if f == nil {
		return false, fmt.Errorf("%s: %w among the configuration", p, ErrNoSuchPath)
	}
	m := &f.Basis.Manifest
	switch {
	case m.Knows(p) && !m.IsConfig(p):
		return false, fmt.Errorf("%s: %w", p, ErrApplicationFile)
	case m.IsIgnored(p):
		return false, fmt.Errorf("%s: %w: its release says that it is not kept, so there is nothing to forget", p, ErrNoSuchPath)
	}
	there := slices.ContainsFunc(f.Basis.Config, func(e *manifest.Entry) bool { return within(p, e.Path) })
	if !there && !f.Tree.Any(func(n *tree.Node) bool { return within(p, n.Path) }) {
		if n := f.Tree.Above(p); n.Err() != nil {
			return false, fmt.Errorf("%s is not forgotten: %w: what lies in %s cannot be told: %w", p, ErrDamage, n.Path, n.Err())
		}
		return false, fmt.Errorf("%s: %w among the configuration", p, ErrNoSuchPath)
	}
	if res.Decision.Action == Nothing {
		res.Decision.Action, res.Decision.From = Capture, System
		res.Decision.Reason = fmt.Sprintf("configuration of %s is to be forgotten", res.Version)
	}
	return true, nil
}

// without leaves p, and what goes with it, out of the configuration that is
// desired. A further name of a file that goes becomes a file.
func (a *aiming) without(p Path) {
	config := overlay(a.basis.Config, a.changes)
	for _, e := range config {
		switch {
		case goes(p, e.Path):
			a.changes[e.Path] = nil
			delete(a.take, e.Path)
			a.forgotten[e.Path] = true
		case e.Type == manifest.Hardlink && goes(p, e.Link):
			if first := manifest.Find(config, e.Link); first != nil {
				file := *first
				file.Path = e.Path
				a.set(&file)
			}
		}
	}
	a.changed = true
	here := func(q Path) bool { return goes(p, q) }
	a.written, a.lost = slices.DeleteFunc(a.written, here), slices.DeleteFunc(a.lost, here)
}
