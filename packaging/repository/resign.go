package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
)

// StageResign returns the change that lists each release whose bundle devices do
// not trust any more, since the keys have changed, with that bundle signed anew
// by s. names says which releases that is about, each as Find says; none are all
// that are not yanked. Where nothing would change the change is nil.
//
// The bundles that it makes are durable, and no device is led to them before
// Apply. The old ones stay, for devices that are fetching them.
func (r *Repository) StageResign(ctx context.Context, s bundle.Signing, names ...string) ([]release.Target, *Change, error) {
	st, err := r.load()
	if err != nil {
		return nil, nil, err
	}
	all, err := st.releases()
	if err != nil {
		return nil, nil, err
	}
	var found []release.Target
	for _, name := range names {
		some, err := Find(all, name)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, some...)
	}
	if len(names) == 0 {
		found = all
	}
	targets := r.next(st)
	var done []release.Target
	for _, rel := range found {
		if rel.TakenBack() && len(names) == 0 {
			continue
		}
		fresh, err := r.resign(ctx, st, s, rel)
		if err != nil {
			_ = r.fs.Remove(incoming) // the first error is the one to report
			return nil, nil, fmt.Errorf("%s: %w", File(rel), err)
		}
		if fresh == nil {
			continue
		}
		t := *targets.Signed.Targets[rel.Name]
		t.Length, t.Hashes = fresh.Length, metadata.Hashes{"sha256": metadata.HexBytes(fresh.SHA256[:])}
		err = editCustom(&t, func(fields map[string]json.RawMessage) {
			fields["head"] = json.RawMessage(fmt.Sprint(fresh.Head))
		})
		if err != nil {
			return nil, nil, err
		}
		targets.Signed.Targets[rel.Name] = &t
		done = append(done, *fresh)
	}
	if len(done) == 0 {
		return nil, nil, nil
	}
	c, err := r.change(st, nil, targets)
	return done, c, err
}

// resign returns rel with its bundle signed anew; nil if devices trust it as it is.
func (r *Repository) resign(ctx context.Context, st *state, s bundle.Signing, rel release.Target) (*release.Target, error) {
	switch _, err := r.head(ctx, st, File(rel)); {
	case err == nil:
		return nil, nil
	case !errors.Is(err, trust.ErrUntrusted):
		return nil, err
	}
	if err := r.copyTo(ctx, File(rel), incoming); err != nil {
		return nil, err
	}
	if err := bundle.Sign(ctx, r.fs, incoming, s); err != nil {
		return nil, err
	}
	head, err := r.head(ctx, st, incoming)
	if err != nil {
		return nil, err
	}
	if head.Release() != rel.Release {
		return nil, fmt.Errorf("%w: it carries the release %s, and targets metadata says %s", ErrDamaged, head.Release(), rel.Release)
	}
	f, err := r.fs.Open(incoming)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rel.Head = head.Length()
	if rel.SHA256, rel.Length, err = digest.OfReader(fsys.InContext(ctx, f)); err != nil {
		return nil, err
	}
	if err := r.fs.Rename(incoming, File(rel)); err != nil {
		return nil, err
	}
	return &rel, r.fs.SyncDir(targetsDir)
}

// head reads the head of a bundle as a device does.
func (r *Repository) head(ctx context.Context, st *state, name string) (*bundle.Head, error) {
	v, err := trust.New(trust.Options{Root: st.root, Time: r.now()})
	if err != nil {
		return nil, err
	}
	f, err := r.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bundle.Look(fsys.InContext(ctx, f), v, nil)
}

// copyTo copies a file, durably but for its name.
func (r *Repository) copyTo(ctx context.Context, from, to string) error {
	src, err := r.fs.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := r.fs.Remove(to); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	dst, err := r.fs.Create(to, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, fsys.InContext(ctx, src))
	if err == nil {
		err = dst.Sync()
	}
	if e := dst.Close(); err == nil {
		err = e
	}
	return err
}
