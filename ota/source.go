// Package ota finds out which release a device should have, fetches it, and
// installs it onto a side.
package ota

import (
	"net/http"
	"strings"

	"tandem/internal/digest"
	"tandem/ota/download"
	"tandem/ota/fault"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Device is what a source must know of a device.
type Device struct {
	ID         string // tells this device from others; "" is outside every partial rollout
	App        string
	Compatible []string           // the hardware names it answers to
	Channels   []string           // that it follows
	Installed  versioning.Version // the zero Version: nothing is installed
	Release    digest.SHA256      // of what is installed; zero if it did not come as a release
	Revoked    []versioning.Version
}

// Offer is a release and the file that carries it.
type Offer struct {
	Release release.Target
	Name    string // of the file, as the repository lists it
	Size    int64  // bytes
	SHA256  digest.SHA256
	Form    Form // in which it is to be had; zero if that was not asked about
	// Halted says that devices which do not have the release are not to take it for now.
	Halted bool
	// Delegated says that a delegated role lists it, not the top level.
	Delegated bool
}

// Progress is told how many bytes of a file are here, out of how many. It may
// be nil.
type Progress = download.Progress

// Sentinels of sources.
var (
	ErrUnreachable = fault.ErrUnreachable
	ErrBudget      = fault.ErrBudget
	ErrRefused     = fault.ErrRefused
	ErrNoSpace     = fault.ErrNoSpace
	ErrNotWritable = fault.ErrNotWritable
)

// Problem is an error with a source.
type Problem = fault.Problem

// StatusError describes an HTTP error of a server.
func StatusError(shown string, resp *http.Response) error { return fault.StatusError(shown, resp) }

// list joins names for a message.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
