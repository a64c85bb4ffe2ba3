//go:build !nextformat

package record

// Format is the format of our files that this Tandem writes, and the newest that it
// reads.
const Format = 1
