package repository

import (
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/fsys"
	"tandem/packaging/release"
	"tandem/packaging/tuf"
)

// ErrDelegated says that a release stands in the list of a delegated role, which
// tandem-release does not change.
var ErrDelegated = errors.New("listed by a delegated role")

// tree reads delegated roles as devices do.
func (r *Repository) tree(s *state, tm *trustedmetadata.TrustedMetadata) *tuf.Tree {
	room := int64(MaxTargets)
	if info, err := r.fs.Lstat(targetsName(s.targets.Signed.Version)); err == nil {
		room -= info.Size
	}
	return tuf.NewTree(tm, room, func(role string, meta *metadata.MetaFiles, limit int64, accept func([]byte) error) error {
		if len(meta.Hashes["sha256"]) == 0 {
			return errors.New("the snapshot names it without its SHA-256")
		}
		raw, err := fsys.ReadFile(r.fs, roleName(s, role), limit)
		if err != nil {
			return err
		}
		return accept(raw)
	})
}

// all returns the releases that targets and the roles below it list, as devices find
// them, but for expiry; which role lists those that targets does not, by the name of
// their bundles; and why some may be missing.
func (r *Repository) all(s *state, targets *metadata.Metadata[metadata.TargetsType]) (list []release.Target, roles map[string]string, unread []error, err error) {
	if list, err = releases(targets); err != nil || targets.Signed.Delegations == nil {
		return list, nil, nil, err
	}
	tm := &trustedmetadata.TrustedMetadata{Snapshot: s.snapshot, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: targets}, RefTime: time.Time{}}
	found, unread := r.tree(s, tm).List()
	roles = map[string]string{}
	for _, l := range found {
		if l.Role == metadata.TARGETS {
			continue
		}
		rel, err := release.ParseListed(l)
		if err != nil {
			unread = append(unread, err)
			continue
		}
		rel.Recall = nil // devices leave it out
		roles[rel.Name] = l.Role
		list = append(list, rel)
	}
	sortReleases(list)
	return list, roles, unread, nil
}

// noRelease is the error of a change of a release that targets metadata does not list.
func (r *Repository) noRelease(s *state, name string, err error) error {
	if !errors.Is(err, ErrNoRelease) {
		return err
	}
	list, roles, _, failed := r.all(s, s.targets)
	if failed != nil {
		return err
	}
	found, failed := Find(list, name)
	if failed != nil {
		return err
	}
	return fmt.Errorf("%s %s is %w, %.80q", found[0].App, found[0].Version, ErrDelegated, roles[found[0].Name])
}
