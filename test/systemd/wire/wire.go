// Package wire is what the lab and its machine say to each other.
package wire

import "time"

// Ready is the line with which the machine begins.
const Ready = "the machine listens"

// Request has a shell script run.
type Request struct {
	Script string
	Limit  time.Duration // it is killed then
}

// Answer is how it ended: 0, its exit code, or -1 for a signal.
type Answer struct {
	Code int
	Out  string // on both its outputs
}
