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
	// The reasons are told of: 1 the side that won and 2 its version, 3 the other side, 4 its
	// version and 5 state, 6 why, 7 and 8 the revisions of system and usr_data, 9 what is
	// kept, 10 the version of system.
	reason := ""
	switch {
	case system.usable() && !c.Kept.IsZero() && (winner.Revoked || system.Revoked && c.Kept.Compare(winner.Version) == 0):
		d.Action, d.To = Return, c.Kept
		if reason = "%[2]s is revoked; %[9]s is kept"; !winner.Revoked {
			reason = "%[10]s is revoked; %[9]s is kept"
		}
	case !loser.usable():
		d.Action, reason = follow(from), "%[1]s has %[2]s; %[3]s is %[5]s"
	case !same:
		d.Action, reason = follow(from), "%[1]s has %[2]s, %[3]s has %[4]s: %[6]s"
		if from == System && winner.State == Intact && loser.State == Intact && !c.Hold.IsZero() && winner.Version.String() == c.Hold.String() {
			d.Action, reason = Hold, "system has %[2]s, which is not confirmed yet; usr_data keeps %[4]s until then"
		}
	case winner.State == Damaged || loser.State == Damaged:
		d.Action, reason = Repair, "both sides have %[2]s; damaged files are repaired"
	case from == UsrData:
		d.Action, reason = RestoreConfig, "both sides have %[2]s; usr_data has configuration of revision %[8]d, system of %[7]d"
	case system.Edited || usrData.Edited:
		d.Action, reason = Capture, "configuration of %[2]s was changed"
	case winner.Revision != loser.Revision:
		d.Action, reason = BackUp, "both sides have %[2]s; system has configuration of revision %[7]d, usr_data of %[8]d"
	case winner.Adopted || loser.Adopted || winner.Nested || loser.Nested:
		d.Action, reason = follow(from), "both sides have %[2]s; a record of it is made"
	case winner.Record != loser.Record:
		d.Action, reason = BackUp, "both sides have %[2]s, with different content: the live side wins"
	default:
		d.Action, reason = Nothing, "both sides have %[2]s"
	}
	d.Reason = fmt.Sprintf(reason, from, winner.Version, from.Other(), loser.Version, loser.State, why, system.Revision, usrData.Revision, c.Kept, system.Version)
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
