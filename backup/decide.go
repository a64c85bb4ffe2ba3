package backup

import (
	"fmt"

	"tandem/internal/digest"
	"tandem/versioning"
)

// Action is what a decision comes down to.
type Action string

// The actions.
const (
	Nothing       Action = "nothing"        // both sides are in step
	BackUp        Action = "back up"        // usr_data follows system
	Restore       Action = "restore"        // system follows usr_data
	Repair        Action = "repair"         // both hold the same version; damaged files are repaired
	Capture       Action = "capture"        // changed configuration is recorded and backed up
	RestoreConfig Action = "restore config" // system takes over newer configuration of its version
	Return        Action = "return"         // the version is revoked: both go back to the one before
	Hold          Action = "hold"           // a backup waits until the version is confirmed
)

// Candidate is all that the decision needs to know of a side.
type Candidate struct {
	State    State
	Version  versioning.Version
	Revision int
	Unfit    bool          // the version is of another application, or for other hardware
	Revoked  bool          // it is revoked
	Mendable bool          // damaged, but everything that it lacks is on the other side
	Edited   bool          // it has configuration that is not captured
	Adopted  bool          // there is no record for its tag yet
	Nested   bool          // the application lies one directory too deep
	Record   digest.SHA256 // of the side's record
}

// usable reports whether the side holds a version, whole or not.
func (c *Candidate) usable() bool { return c.State == Intact || c.State == Damaged }

// whole reports whether the side's version can be had complete.
func (c *Candidate) whole() bool { return c.State == Intact || c.State == Damaged && c.Mendable }

// Choice is what else the decision depends on.
type Choice struct {
	// Hold is a version that is not to replace another one on usr_data yet,
	// while that is whole: it is what a rollback returns to.
	Hold versioning.Version
	// Kept is the version that is kept to return to; zero if there is none, or if the backup
	// has it with all that there is of its configuration.
	Kept versioning.Version
}

// Decision is which side the other one follows, and why.
type Decision struct {
	Action Action
	From   SideName // the side whose version and configuration both have afterwards
	To     versioning.Version
	Reason string // for people
}

// Decide chooses between two sides. It is a pure function: the design's table
// "The decision". Sides rank by fit for this device, then whole, then not
// revoked, then version, then revision; of equals the live side wins.
//
// The error wraps ErrUnavailable, ErrNoApplication or ErrDamage: nothing may
// be touched then.
func Decide(system, usrData Candidate, c Choice) (Decision, error) {
	switch {
	case system.State == Unavailable:
		return Decision{}, fmt.Errorf("%w: %s", ErrUnavailable, System)
	case usrData.State == Unavailable:
		return Decision{}, fmt.Errorf("%w: %s", ErrUnavailable, UsrData)
	case system.State == Absent && usrData.State == Absent:
		return Decision{}, ErrNoApplication
	case !system.usable() && !usrData.usable():
		return Decision{}, fmt.Errorf("%w: neither side holds a version: system is %s, usr_data is %s", ErrDamage, system.State, usrData.State)
	}

	from, why := rank(&system, &usrData)
	winner, loser := &system, &usrData
	if from == UsrData {
		winner, loser = loser, winner
	}
	same := winner.usable() && loser.usable() && winner.Version.Compare(loser.Version) == 0
	if !winner.whole() && !same {
		but := "no side holds a version that is whole"
		if loser.whole() {
			but = fmt.Sprintf("%s %s is not for this device", from.Other(), loser.Version)
		}
		return Decision{}, fmt.Errorf("%w: %s %s is damaged, and %s", ErrDamage, from, winner.Version, but)
	}
	d := Decision{From: from, To: winner.Version}
	switch {
	case system.usable() && !c.Kept.IsZero() && (winner.Revoked || system.Revoked && c.Kept.Compare(winner.Version) == 0):
		bad := winner.Version
		if !winner.Revoked {
			bad = system.Version
		}
		d.Action, d.To = Return, c.Kept
		d.Reason = fmt.Sprintf("%s is revoked; %s is kept", bad, c.Kept)
	case !loser.usable():
		d.Action, d.Reason = follow(from), fmt.Sprintf("%s has %s; %s is %s", from, winner.Version, from.Other(), loser.State)
	case !same:
		d.Action, d.Reason = follow(from), fmt.Sprintf("%s has %s, %s has %s: %s", from, winner.Version, from.Other(), loser.Version, why)
		if from == System && winner.State == Intact && loser.State == Intact && !c.Hold.IsZero() && winner.Version.String() == c.Hold.String() {
			d.Action = Hold
			d.Reason = fmt.Sprintf("system has %s, which is not confirmed yet; usr_data keeps %s until then", winner.Version, loser.Version)
		}
	case winner.State == Damaged || loser.State == Damaged:
		d.Action, d.Reason = Repair, fmt.Sprintf("both sides have %s; damaged files are repaired", winner.Version)
	case from == UsrData:
		d.Action, d.Reason = RestoreConfig, fmt.Sprintf("both sides have %s; usr_data has configuration of revision %d, system of %d", winner.Version, usrData.Revision, system.Revision)
	case system.Edited || usrData.Edited:
		d.Action, d.Reason = Capture, fmt.Sprintf("configuration of %s was changed", winner.Version)
	case winner.Revision != loser.Revision:
		d.Action, d.Reason = BackUp, fmt.Sprintf("both sides have %s; system has configuration of revision %d, usr_data of %d", winner.Version, system.Revision, usrData.Revision)
	case winner.Adopted || loser.Adopted || winner.Nested || loser.Nested:
		d.Action, d.Reason = follow(from), fmt.Sprintf("both sides have %s; a record of it is made", winner.Version)
	case winner.Record != loser.Record:
		d.Action, d.Reason = BackUp, fmt.Sprintf("both sides have %s, with different content: the live side wins", winner.Version)
	default:
		d.Action, d.Reason = Nothing, fmt.Sprintf("both sides have %s", winner.Version)
	}
	return d, nil
}

func follow(from SideName) Action {
	if from == System {
		return BackUp
	}
	return Restore
}

// rank returns the side that the other one follows, and what tipped the scales.
func rank(system, usrData *Candidate) (SideName, string) {
	switch {
	case system.usable() != usrData.usable():
		return wins(system.usable(), "the other has none")
	case system.Unfit != usrData.Unfit:
		return wins(usrData.Unfit, "the other is not for this device")
	case system.whole() != usrData.whole():
		return wins(system.whole(), "the other is damaged beyond repair")
	case system.Revoked != usrData.Revoked:
		return wins(usrData.Revoked, "the other is revoked")
	}
	if c := system.Version.Compare(usrData.Version); c != 0 {
		return wins(c > 0, "the higher version")
	}
	if system.Revision != usrData.Revision {
		return wins(system.Revision > usrData.Revision, "the newer configuration")
	}
	return System, "the live side"
}

// wins names the side that wins, system or else the other one, and why.
func wins(system bool, why string) (SideName, string) {
	if system {
		return System, why
	}
	return UsrData, why
}
