package manifest

import (
	"fmt"
	"path"
	"strings"
)

// A pattern names paths below apps/. Its elements are matched as by path.Match;
// an element "**" matches any number of elements, none included. A pattern
// without a slash matches in the top directory only. What matches a directory
// covers what is below it.

// CheckPattern reports whether pattern can be used.
func CheckPattern(pattern string) error {
	if err := CheckPath(Path(pattern)); err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	for el := range strings.SplitSeq(pattern, "/") {
		if _, err := path.Match(el, ""); err != nil {
			return fmt.Errorf("%w: pattern %q: an open bracket or a trailing backslash", ErrInvalid, pattern)
		}
	}
	return nil
}

// MatchAny reports whether one of the patterns names p or a directory above it.
func MatchAny(patterns []string, p Path) bool {
	for _, pattern := range patterns {
		if match(pattern, p) {
			return true
		}
	}
	return false
}

// match takes time in proportion to the elements of both, also for a
// hostile pattern: only the last "**" that was met is ever taken up again.
func match(pattern string, p Path) bool {
	if !strings.Contains(string(p), literal(pattern)) { // which is soon seen, of hundreds of patterns
		return false
	}
	var patRoom, nameRoom [16]string // most need no more, and a tree has many paths
	pat, name := elements(patRoom[:0], pattern), elements(nameRoom[:0], string(p))
	pi, ni := 0, 0
	starAt, starName := -1, 0
	for pi < len(pat) {
		if pat[pi] == "**" {
			starAt, starName = pi, ni
			pi++
			continue
		}
		if ni < len(name) {
			if ok, _ := path.Match(pat[pi], name[ni]); ok {
				pi, ni = pi+1, ni+1
				continue
			}
		}
		if starAt < 0 || starName >= len(name) {
			return false
		}
		starName++
		pi, ni = starAt+1, starName
	}
	// The pattern is used up: p is what it names, or lies below it. A "**" at
	// its end needs an element to stand for.
	return pat[len(pat)-1] != "**" || ni < len(name)
}

// literal returns the longest text that stands in each path that a pattern matches, up to
// its first bracket or backslash.
func literal(pattern string) (longest string) {
	begin := 0
	for i := range len(pattern) + 1 {
		if i < len(pattern) && strings.IndexByte(`*?/[\`, pattern[i]) < 0 {
			continue
		}
		if i-begin > len(longest) {
			longest = pattern[begin:i]
		}
		if begin = i + 1; i < len(pattern) && (pattern[i] == '[' || pattern[i] == '\\') {
			break
		}
	}
	return longest
}

// elements appends the elements of a path to list.
func elements(list []string, p string) []string {
	for el := range strings.SplitSeq(p, "/") {
		list = append(list, el)
	}
	return list
}
