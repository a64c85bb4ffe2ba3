package device

import (
	"tandem/agent/firmware"
	"tandem/internal/digest"
	"tandem/ota"
	"tandem/packaging/release"
	"tandem/versioning"
)

// Step is how far the agent has come with a release.
type Step string

// The steps of the agent's loop. The step is in agent.json, in the agent's
// state, which is replaced as a whole and durably before the step begins.
//
//	step         on the disk                             the next start of the agent
//	idle         nothing of a release                    polls in its time
//	downloading  a part of the bundle, or none           goes on with the part; a poll comes first
//	             of it                                   only in its time
//	ready        the verified bundle                     installs it, in a window, once the
//	                                                     pre_install hook agrees
//	installing   the bundle; before the commit also a    the reconciler discards or finishes what
//	             staged version, after it a side that    was staged; not committed: the start hook
//	             waits to be backed up and, with a       runs and the step is ready again;
//	             health hook, to be confirmed            committed: the start hook runs, then the
//	                                                     health hook decides; taken back since:
//	                                                     the start hook runs, then idle
//
// The return from a release that is recalled takes the last two steps, without a
// bundle: "ready" it waits for its hour, "installing" it is under way
// (backup.Reconciler.Withdraw).
//
// A version that waits to be confirmed is not a step: the sides remember it
// (backup.Pending), and it may have been installed by hand. The agent asks the
// health hook about it until that says yes or no.
const (
	Idle        Step = "idle"
	Downloading Step = "downloading"
	Ready       Step = "ready"
	Installing  Step = "installing"
)

// Course is the release that the agent is busy with, and how far it has come.
type Course struct {
	Step    Step               `json:"step"`
	Kind    release.Kind       `json:"kind,omitempty"`
	App     string             `json:"app,omitempty"`
	From    versioning.Version `json:"from,omitzero"`
	Version versioning.Version `json:"version,omitzero"`
	Urgent  bool               `json:"urgent,omitempty"`
	Name    string             `json:"name,omitempty"` // as the repository lists it
	Size    int64              `json:"size,omitempty"` // bytes
	SHA256  digest.SHA256      `json:"sha256,omitzero"`
	File    string             `json:"file,omitempty"` // the path of the verified bundle
	// Recall says that From is recalled, and Version is kept here to return to:
	// nothing is downloaded, and SHA256 is that of the release that is left.
	Recall bool `json:"recall,omitempty"`
	// Hold says why it is not to be installed yet, though it is here.
	Hold string `json:"hold,omitempty"`
	// Unpacked is how much the release takes on a side, in bytes.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Release is which release it is, and Head how long the head of its bundle is.
	Release digest.SHA256 `json:"release,omitzero"`
	Head    int64         `json:"head,omitempty"`
}

// courseOf is what the agent does about an offer, from the start.
func courseOf(o *ota.Offer, from versioning.Version) Course {
	kind := o.Release.Kind
	if kind == "" {
		kind = release.App
	}
	return Course{
		Step: Downloading, Kind: kind, App: o.Release.App, From: from, Version: o.Release.Version,
		Urgent: o.Release.Urgent, Name: o.Name, Size: o.Size, SHA256: o.SHA256, Unpacked: o.Release.Unpacked,
		Release: o.Release.Release, Head: o.Release.Head,
	}
}

// Offer is what is downloaded.
func (c *Course) Offer() ota.Offer {
	o := ota.Offer{Name: c.Name, Size: c.Size, SHA256: c.SHA256}
	o.Release.App, o.Release.Kind, o.Release.Version, o.Release.Unpacked = c.App, c.Kind, c.Version, c.Unpacked
	o.Release.Release, o.Release.Head = c.Release, c.Head
	return o
}

// unpackedCourse is what is left to do for a firmware that waits for its handler. It
// has no bundle any more; the sum tells it from others.
func unpackedCourse(k release.Kind, r firmware.Result) Course {
	return Course{
		Step: Ready, Kind: k, App: r.Name, From: r.From, Version: r.Version,
		SHA256: digest.Of([]byte("unpacked " + r.Name + " " + r.Version.String())),
	}
}

// unpacked reports whether that is so of c.
func (c *Course) unpacked() bool {
	return (c.Kind == release.Firmware || c.Kind == release.Agent) && c.Name == ""
}
