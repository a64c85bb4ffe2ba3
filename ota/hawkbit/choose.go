package hawkbit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tandem/internal/digest"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Head is what a bundle says of itself before its content, verified.
type Head struct {
	Kind       release.Kind
	App        string
	Version    versioning.Version
	Compatible []string
	Base       versioning.Version // that must be installed to use it; zero: any or none
	Size       int64              // of the whole bundle, bytes
	Unpacked   int64              // bytes that its files take
	Release    digest.SHA256      // which release it is: the hash of release.json
	Length     int64              // of what comes before the first frame, bytes
}

// found is an artifact of an action, looked at.
type found struct {
	artifact string
	url      string
	sha256   digest.SHA256
	head     *Head
	failed   string // why it cannot be taken; "" if head is there
	code     int
}

// Exit codes that tell a server why, as a command would.
const (
	codeOther        = 1
	codeIncompatible = 21
	codeOlder        = 22
)

// chooseParts makes of the artifacts of an action what the device is to do. Of
// several that bring the same release the smallest that applies is taken. One
// that cannot be taken keeps all of the action from being begun: a set is a
// whole.
func chooseParts(all []found, f *Facts, compatible []string) []Part {
	type key struct {
		kind release.Kind
		app  string
	}
	var parts []Part
	groups := map[key][]found{}
	var order []key
	for _, x := range all {
		if x.failed == "" {
			x.failed, x.code = unsuitable(x.head, f, compatible)
		}
		if x.failed != "" {
			p := Part{Artifact: x.artifact, Failed: x.failed, Code: cmp.Or(x.code, codeOther)}
			if x.head != nil {
				p.Kind, p.App, p.Version = x.head.Kind, x.head.App, x.head.Version
			}
			parts = append(parts, p)
			continue
		}
		k := key{x.head.Kind, x.head.App}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], x)
	}
	for _, k := range order {
		parts = append(parts, chooseOne(groups[k], f.unit(k.kind, k.app)))
	}
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
	return holdBack(parts)
}

// rank puts firmware before the application that may need it.
func rank(k release.Kind) int {
	if k == release.App {
		return 1
	}
	return 0
}

func unsuitable(h *Head, f *Facts, compatible []string) (why string, code int) {
	switch {
	case f.unit(h.Kind, h.App) == nil:
		return fmt.Sprintf("it carries the %s %q, which this device does not run", h.Kind, h.App), codeIncompatible
	case h.Kind == release.Agent && !slices.Contains(h.Compatible, release.Architecture()):
		return fmt.Sprintf("it is for %s, this tandem is for %s", list(h.Compatible), release.Architecture()), codeIncompatible
	case h.Kind != release.Agent && !slices.ContainsFunc(h.Compatible, func(c string) bool { return slices.Contains(compatible, c) }):
		return fmt.Sprintf("it is for %s, this device is %s", list(h.Compatible), list(compatible)), codeIncompatible
	}
	return "", 0
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// chooseOne makes one part of what brings the same thing.
func chooseOne(all []found, u *Unit) Part {
	first := all[0]
	part := func(x found) Part {
		h := x.head
		return Part{
			Artifact: x.artifact, URL: x.url, SHA256: x.sha256, Kind: h.Kind, App: h.App, Version: h.Version, Size: h.Size, Unpacked: h.Unpacked,
			Release: h.Release, Head: h.Length,
			Had: u.Installed.Compare(h.Version) == 0 && !u.Installed.IsZero(),
		}
	}
	var best *found
	for i := range all {
		x := &all[i]
		if x.head.Version.String() != first.head.Version.String() {
			p := part(*x)
			p.Failed = fmt.Sprintf("%s brings %s in version %s, %s in version %s: expected one version", first.artifact, x.head.App, first.head.Version, x.artifact, x.head.Version)
			p.Code = codeOther
			return p
		}
		if b := x.head.Base; !b.IsZero() && b.Compare(u.Installed) != 0 {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(x.head.Size, best.head.Size), cmp.Compare(x.artifact, best.artifact)) < 0 {
			best = x
		}
	}
	p := part(first)
	switch {
	case best != nil:
		p = part(*best)
	case !p.Had:
		p.Failed = fmt.Sprintf("it builds on version %s, %s is installed", first.head.Base, cmp.Or(u.Installed.String(), "none"))
		p.Code = codeOther
	}
	if u.Installed.Compare(p.Version) > 0 {
		p.Failed, p.Code = fmt.Sprintf("older than %s, which is installed", u.Installed), codeOlder
	}
	return p
}

// holdBack keeps the parts of an action from being begun where one cannot be.
func holdBack(parts []Part) []Part {
	i := slices.IndexFunc(parts, func(p Part) bool { return p.Failed != "" })
	if i < 0 {
		return parts
	}
	why := fmt.Sprintf("not begun, because %s cannot be taken", parts[i].Artifact)
	for k := range parts {
		if p := &parts[k]; p.Failed == "" && !p.Had {
			p.Failed, p.Code = why, parts[i].Code
		}
	}
	return parts
}
