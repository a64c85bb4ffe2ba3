package ota

import (
	"context"
	"strings"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
)

// onDevice is what lies on a device that a delta bundle may build on: either
// side's version, and those before that they keep.
type onDevice struct {
	ctx   context.Context
	r     *backup.Reconciler
	bases *backup.Bases // once the release was found
}

// BaseOf returns what lies on a device that a delta bundle may build on; own, which
// may be nil, is Tandem itself.
func BaseOf(ctx context.Context, r *backup.Reconciler, own bundle.Base) bundle.Base {
	sides := &onDevice{ctx: ctx, r: r}
	if own == nil {
		return sides
	}
	return &withOwn{sides, own}
}

// Release implements bundle.Base. A side does not keep release.json: it is made
// again from what is recorded of the release.
func (d *onDevice) Release(of *bundle.Delta) ([]byte, error) {
	var here []string
	b, bases := of.Base, d.r.Bases()
	for _, m := range bases.Manifests() {
		if m.Version.String() == b.Version.String() {
			raw, err := release.Rebuild(m, b.Time)
			if err != nil {
				return nil, err
			}
			if digest.Of(raw) == b.Release {
				bases.Keep(of.Needs())
				d.bases = bases
				return raw, nil
			}
			here = append(here, m.Version.String()+", which is another release")
			continue
		}
		here = append(here, m.Version.String())
	}
	if len(here) == 0 {
		return nil, bundle.NotHere("no version is here")
	}
	return nil, bundle.NotHere("here is %s", strings.Join(unique(here), "; "))
}

// unique drops what a list has already.
func unique(list []string) (kept []string) {
	seen := map[string]bool{}
	for _, s := range list {
		if !seen[s] {
			kept = append(kept, s)
		}
		seen[s] = true
	}
	return kept
}

// Open implements bundle.Base.
func (d *onDevice) Open(sum digest.SHA256, size int64) (bundle.BaseFile, error) {
	if d.bases == nil {
		return nil, bundle.NotHere("the base is not here")
	}
	f, err := d.bases.Open(d.ctx, sum, size)
	if err != nil && d.ctx.Err() == nil {
		return nil, bundle.NotHere("%v", err)
	}
	return f, err
}

// withOwn is a base that has Tandem itself, too.
type withOwn struct {
	bundle.Base
	own bundle.Base
}

// Release implements bundle.Base.
func (w *withOwn) Release(of *bundle.Delta) ([]byte, error) {
	if raw, err := w.own.Release(of); err == nil {
		return raw, nil
	}
	return w.Base.Release(of)
}

// Open implements bundle.Base.
func (w *withOwn) Open(sum digest.SHA256, size int64) (bundle.BaseFile, error) {
	if f, err := w.own.Open(sum, size); err == nil {
		return f, nil
	}
	return w.Base.Open(sum, size)
}
