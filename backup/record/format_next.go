//go:build nextformat

package record

// Format is that of a Tandem of the future, for tests of what this one does when it
// meets its files.
const Format = 2
