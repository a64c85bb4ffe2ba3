package backup

import (
	"context"
	"slices"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/backup/tree"
	"tandem/internal/digest"
)

// adopt makes a record of what lies on a side. It keeps the division of an
// older record; without one everything is configuration, so that an edit is
// never mistaken for damage, and each file is marked as being as it was.
func (l *looker) adopt(ctx context.Context, s *found) (*record.Record, error) {
	s.Adopted = true
	r := &record.Record{Manifest: Manifest{Version: s.Version}}
	var defaults []*manifest.Entry
	if s.own != nil {
		r.Manifest = s.own.Manifest
		r.Manifest.Version, r.Manifest.Release = s.Version, digest.SHA256{}
		r.Revision = s.own.Revision + 1
		for _, e := range s.own.Manifest.Files {
			if r.Manifest.IsConfig(e.Path) {
				defaults = append(defaults, e)
			}
		}
	}
	division := r.Manifest
	r.Manifest.Files = nil
	entries := make([]*manifest.Entry, s.tree.Len())
	var unknown []int
	for c := s.tree.Nodes(); c.Next(); {
		i, n := c.Place(), c.Node()
		switch e := s.own.Find(n.Path); {
		case division.IsIgnored(n.Path) || n.Foreign():
		case e != nil && e.Type == manifest.File && n.Known() && n.Link() == "" && !l.suspects[s.Side][n.Path]:
			if entries[i] = e; e.Mtime != n.Mtime {
				now := *e
				now.Mtime = n.Mtime
				entries[i] = &now
			}
		default:
			unknown = append(unknown, i)
		}
	}
	err := l.r.each(len(unknown), func(k int) (err error) {
		i := unknown[k]
		entries[i], err = l.describe(ctx, s, s.tree.At(i), &division)
		if tree.Means(err) == tree.Nothing {
			return err
		}
		return nil // the comparison tells
	})
	if err != nil {
		return nil, err
	}
	for c := s.tree.Nodes(); c.Next(); {
		i, n := c.Place(), c.Node()
		e := entries[i]
		if e == nil {
			continue
		}
		s.tree.Told(i)
		config := division.IsConfig(n.Path)
		if was := s.own.Find(n.Path); e != was { // it is new
			e.Adopted = config && (s.own == nil || was != nil && was.Adopted && manifest.SameContent(was, e))
			e = s.own.Shares(e)
		}
		if config {
			r.Config = append(r.Config, e)
		} else {
			r.Manifest.Files = append(r.Manifest.Files, e)
		}
	}
	if s.own != nil { // what cannot be looked at now keeps its last capture
		hidden := map[Path]*manifest.Entry{}
		c := s.tree.Nodes()
		for _, e := range s.own.Config {
			n := c.On(e.Path)
			if n == nil {
				n = s.tree.Above(e.Path)
			}
			if n != nil && (n.Foreign() || n.Err() != nil) && manifest.Find(r.Config, e.Path) == nil {
				hidden[e.Path] = e
			}
		}
		r.Config = overlay(r.Config, hidden)
	}
	if len(defaults) > 0 {
		r.Manifest.Files = append(r.Manifest.Files, defaults...)
		slices.SortFunc(r.Manifest.Files, manifest.ByPath)
	}
	dropOrphans(r)
	return r, nil
}

// describe describes what lies at n as a record has it. A further name of a file
// is told as a hard link, unless the first is on the other side of the division
// between application files and configuration: the two do not change together.
func (l *looker) describe(ctx context.Context, s *found, n *tree.Node, m *Manifest) (*manifest.Entry, error) {
	if to := n.Link(); to != "" && m.IsConfig(to) == m.IsConfig(n.Path) && !m.IsIgnored(to) {
		return &manifest.Entry{Path: n.Path, Type: manifest.Hardlink, Link: to}, nil
	}
	return tree.Describe(ctx, s.tree, n)
}

// captured is what a fact says lies there, as configuration is recorded.
func captured(f *tree.Facts, o *tree.Fact) *manifest.Entry {
	if o.Node != nil && o.Now != nil && o.Now.Type == manifest.File {
		if to := o.Node.Link(); to != "" && f.Basis.Manifest.IsConfig(to) && !f.Basis.Manifest.IsIgnored(to) {
			return &manifest.Entry{Path: o.Path, Type: manifest.Hardlink, Link: to}
		}
	}
	return o.Now
}
