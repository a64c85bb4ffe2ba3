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
// hostile pattern: only the last "**" that was met is ever taken up again. It
// allocates nothing: a tree has many paths.
func match(pattern string, p Path) bool {
	if !strings.Contains(string(p), literal(pattern)) { // which is soon seen, of hundreds of patterns
		return false
	}
	pat, name := pattern, string(p) // what is left of both
	star, starPat, starName, last := false, "", "", ""
	for pat != "" {
		el, rest, _ := strings.Cut(pat, "/")
		last = el
		if el == "**" {
			star, starPat, starName, pat = true, rest, name, rest
			continue
		}
		if name != "" {
			first, left, _ := strings.Cut(name, "/")
			if ok, _ := path.Match(el, first); ok {
				pat, name = rest, left
				continue
			}
		}
		if !star || starName == "" {
			return false
		}
		_, starName, _ = strings.Cut(starName, "/")
		pat, name = starPat, starName
	}
	// The pattern is used up: p is what it names, or lies below it. A "**" at
	// its end needs an element to stand for.
	return last != "**" || name != ""
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
