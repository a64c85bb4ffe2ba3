package backup

import (
	"context"

	"tandem/backup/manifest"
)

// Lacks tells which files of the release m are on neither side, by their
// content: what has to come from elsewhere to install it. It looks quickly, and
// changes nothing; a file that turns out to be damaged later is lacking after
// all. It returns nil if neither side has anything.
func (r *Reconciler) Lacks(ctx context.Context, m *Manifest) (func(Path) bool, error) {
	j := newJob(r, Options{})
	system, usrData, err := j.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if system.facts == nil && usrData.facts == nil {
		return nil, nil
	}
	src := j.sources(system, usrData)
	lacking := map[Path]bool{}
	for _, e := range m.Files {
		if e.Type == manifest.File && !src.has(System, e) {
			lacking[e.Path] = true
		}
	}
	return func(p Path) bool { return lacking[p] }, nil
}
