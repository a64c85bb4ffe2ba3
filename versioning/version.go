// Package versioning knows what a version is and how a side's tag is read and
// written.
package versioning

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	version "github.com/hashicorp/go-version"
)

// maxLength bounds a version's text. Real versions are far shorter; the bound
// keeps garbage out of file names and messages.
const maxLength = 128

// isSemver reports whether s is of the grammar of semver.org 2.0.0, nothing before or
// after it: go-version's own parser also takes "v1", "1.2", "1.2.3.4" and "01.2.3".
func isSemver(s string) bool {
	s, build, built := strings.Cut(s, "+")
	core, pre, early := strings.Cut(s, "-")
	numbers := strings.Split(core, ".")
	return len(numbers) == 3 && all(numbers, isWhole) &&
		(!early || all(strings.Split(pre, "."), func(id string) bool { return isWhole(id) || isWord(id) && !isDigits(id) })) &&
		(!built || all(strings.Split(build, "."), isWord))
}

func all(list []string, is func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !is(s) })
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}) < 0
}

// isWhole reports whether s is a number as the vendor's script writes its tags:
// 1, 2, 3 …
func isWhole(s string) bool {
	return isDigits(s) && (s[0] != '0' || s == "0")
}

// ErrMalformed says that a text is no version.
var ErrMalformed = errors.New("not a version")

// Version is a semantic version, or a whole number as found on devices that
// ran the vendor's script; 7 has the precedence of 7.0.0. Its numbers have any
// length. The zero value is no version and precedes all others. Versions are
// values; their original text is kept.
type Version struct{ text string }

// Parse reads a version: a semantic version of semver.org 2.0.0 or a whole
// number, nothing before or after it. The error wraps ErrMalformed.
func Parse(text string) (Version, error) {
	if len(text) > maxLength {
		return Version{}, fmt.Errorf("%w: %.20q… has %d characters, at most %d are allowed", ErrMalformed, text, len(text), maxLength)
	}
	if !isSemver(text) && !isWhole(text) {
		return Version{}, fmt.Errorf("%w: %q: expected MAJOR.MINOR.PATCH as in semver.org, such as 1.4.2 or 2.0.0-rc.1", ErrMalformed, text)
	}
	return Version{text}, nil
}

// split returns the three numbers of a version in decimal digits, without leading
// zeros, and its prerelease.
func (v Version) split() (core [3]string, pre string) {
	text, _, _ := strings.Cut(v.text, "+")
	text, pre, _ = strings.Cut(text, "-")
	core = [3]string{"0", "0", "0"}
	copy(core[:], strings.Split(text, "."))
	return core, pre
}

// String returns the original text, or "" for the zero Version.
func (v Version) String() string { return v.text }

// IsZero reports whether v is no version at all.
func (v Version) IsZero() bool { return v.text == "" }

// Compare orders versions by the precedence of semver.org: negative if v comes
// before w, positive if after, 0 if neither. Build metadata does not count.
func (v Version) Compare(w Version) int {
	switch {
	case v.text == w.text: // most are: the parser is not even made ready then
		return 0
	case v.IsZero():
		return -1
	case w.IsZero():
		return 1
	}
	vc, vp := v.split()
	wc, wp := w.split()
	return cmp.Or(compareCore(vc, wc), comparePrerelease(vp, wp))
}

func compareCore(v, w [3]string) int {
	a, aerr := version.NewVersion(strings.Join(v[:], "."))
	b, berr := version.NewVersion(strings.Join(w[:], "."))
	if aerr == nil && berr == nil {
		return a.Compare(b)
	}
	return slices.CompareFunc(v[:], w[:], compareNumbers) // a number is beyond its 63 bits
}

// compareNumbers compares two numbers in decimal digits, without leading zeros.
func compareNumbers(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// In reports whether v is one of versions, by precedence: another build of a
// version is that version still.
func (v Version) In(versions []Version) bool {
	return slices.ContainsFunc(versions, func(w Version) bool { return w.Compare(v) == 0 })
}

// Without returns versions without v, by precedence.
func Without(versions []Version, v Version) []Version {
	return slices.DeleteFunc(slices.Clone(versions), func(w Version) bool { return w.Compare(v) == 0 })
}

// comparePrerelease follows semver.org 2.0.0, item 11. go-version 1.9.0 does
// not: to it alpha comes after alpha.beta, "-1" is a number, and numbers
// beyond 63 bits are words.
func comparePrerelease(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == "":
		return 1
	case b == "":
		return -1
	}
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		if c := compareIdentifier(as[i], bs[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}

func compareIdentifier(a, b string) int {
	an, bn := isWhole(a), isWhole(b)
	switch {
	case an && bn:
		return compareNumbers(a, b)
	case an:
		return -1
	case bn:
		return 1
	}
	return strings.Compare(a, b)
}

// MarshalText implements encoding.TextMarshaler with the original text.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler. An empty text is the zero Version.
func (v *Version) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*v = Version{}
		return nil
	}
	p, err := Parse(string(text))
	if err == nil {
		*v = p
	}
	return err
}

// Part is a part of a version that can be raised.
type Part string

// The parts of a version.
const (
	Major Part = "major"
	Minor Part = "minor"
	Patch Part = "patch"
)

// Bump returns the next version: part raised by one, those after it zero,
// prerelease and build metadata gone. A prerelease becomes the release it leads
// to when that is no lower than asked: 1.2.0-rc.1 bumped by minor is 1.2.0. The
// zero Version counts as 0.0.0.
func (v Version) Bump(part Part) (Version, error) {
	core, pre := [3]string{"0", "0", "0"}, ""
	if !v.IsZero() {
		core, pre = v.split()
	}
	final := pre == ""
	switch part {
	case Major:
		if final || core[1] != "0" || core[2] != "0" {
			core[0] = next(core[0])
		}
		core[1], core[2] = "0", "0"
	case Minor:
		if final || core[2] != "0" {
			core[1] = next(core[1])
		}
		core[2] = "0"
	case Patch:
		if final {
			core[2] = next(core[2])
		}
	default:
		return Version{}, fmt.Errorf("cannot raise %q: expected %s, %s or %s", part, Major, Minor, Patch)
	}
	return Parse(strings.Join(core[:], "."))
}

// next returns the number after n, both in decimal digits.
func next(n string) string {
	i, _ := new(big.Int).SetString(n, 10) // a number, by the pattern of Parse
	return i.Add(i, big.NewInt(1)).String()
}
