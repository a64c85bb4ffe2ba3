package backup

import "context"

// Lacks tells which files of the release m are on neither side, by their
// content: what has to come from elsewhere to install it. It looks quickly, and
// changes nothing; a file that turns out to be damaged later is lacking after
// all. It gives nil if neither side has anything.
func (r *Reconciler) Lacks(ctx context.Context, m *Manifest) (func(Path) bool, error) {
	in := newInspector(r.now(), Options{})
	system, usrData, err := in.look(ctx, r.System, r.UsrData)
	if err != nil {
		return nil, err
	}
	if system.tree.empty() && usrData.tree.empty() {
		return nil, nil
	}
	sources := newSources(system, usrData)
	lacking := map[Path]bool{}
	for _, e := range m.Files {
		if e.Type != File {
			continue
		}
		if _, ok := sources.find(System, e); !ok {
			lacking[e.Path] = true
		}
	}
	return func(p Path) bool { return lacking[p] }, nil
}

// Matches reports whether one of patterns names p or a directory above it.
func Matches(patterns []string, p Path) bool { return matchAny(patterns, p) }
