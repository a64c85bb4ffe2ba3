package hawkbit

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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
	Base       versioning.Version // of a delta bundle: what it builds on; else zero
	// Lacks says why a delta bundle cannot be used here: what it builds on is not
	// here. Then Compatible is not known, and Kind is taken for release.App.
	Lacks    string
	Size     int64         // of the whole bundle, bytes
	Cost     int64         // bytes that this device would fetch of it
	Unpacked int64         // bytes that its files take
	Release  digest.SHA256 // which release it is: the hash of release.json
	Length   int64         // of what comes before the first frame, bytes
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

// lacks reports whether it is a delta bundle that cannot be used here.
func (x *found) lacks() bool { return x.head != nil && x.head.Lacks != "" }

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
		if x.lacks() && slices.ContainsFunc(all, func(o found) bool { return o.head != nil && !o.lacks() && o.head.Release == x.head.Release }) {
			continue
		}
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
	sort.SliceStable(parts, func(i, j int) bool { return rank(parts[i].Kind) < rank(parts[j].Kind) })
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
	case h.Lacks == "" && h.Kind != release.Agent && !slices.ContainsFunc(h.Compatible, func(c string) bool { return slices.Contains(compatible, c) }):
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
	part := func(x *found) Part {
		h := x.head
		return Part{
			Artifact: x.artifact, URL: x.url, SHA256: x.sha256, Kind: h.Kind, App: h.App, Version: h.Version, Base: h.Base, Size: h.Size, Unpacked: h.Unpacked,
			Release: h.Release, Head: h.Length,
			Had: u.Installed.Compare(h.Version) == 0 && !u.Installed.IsZero(),
		}
	}
	var best, whole *found
	for i := range all {
		x := &all[i]
		if x.head.Version.String() != first.head.Version.String() || x.head.Release != first.head.Release {
			p := part(x)
			p.Failed = fmt.Sprintf("%s brings %s in version %s, %s in version %s: expected one release", first.artifact, x.head.App, first.head.Version, x.artifact, x.head.Version)
			p.Code = codeOther
			return p
		}
		if x.lacks() {
			continue
		}
		if best == nil || cheaper(x, best) {
			best = x
		}
		if x.head.Base.IsZero() && (whole == nil || cheaper(x, whole)) {
			whole = x
		}
	}
	p := part(&first)
	switch {
	case best != nil:
		p = part(best)
		if whole != nil && !best.head.Base.IsZero() {
			other := part(whole)
			p.Whole = &other
		}
	case !p.Had:
		p.Failed, p.Code = first.head.Lacks, codeIncompatible
	}
	if u.Installed.Compare(p.Version) > 0 {
		p.Failed, p.Code = fmt.Sprintf("older than %s, which is installed", u.Installed), codeOlder
	}
	return p
}

// cheaper reports whether a is to be taken before b. Names decide last, so that the
// order in which a server lists artifacts never matters.
func cheaper(a, b *found) bool {
	return a.head.Cost < b.head.Cost || a.head.Cost == b.head.Cost && a.artifact < b.artifact
}

// holdBack keeps the parts of an action from being begun where one cannot be.
func holdBack(parts []Part) []Part {
	i := 0
	for i < len(parts) && parts[i].Failed == "" {
		i++
	}
	if i == len(parts) {
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
