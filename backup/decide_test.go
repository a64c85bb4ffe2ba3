package backup

import (
	"errors"
	"strings"
	"testing"

	"tandem/internal/digest"
	"tandem/versioning"
)

func v(s string) versioning.Version {
	p, err := versioning.Parse(s)
	if err != nil {
		panic(err) // a mistake in a test's table
	}
	return p
}

// whole is an intact side; record tells sides with different content apart.
func whole(version string, revision int, record string) Candidate {
	return Candidate{State: Intact, Version: v(version), Revision: revision, Record: digest.Of([]byte(record))}
}

func with(c Candidate, change func(*Candidate)) Candidate {
	change(&c)
	return c
}

func damaged(c Candidate, mendable bool) Candidate {
	c.State, c.Mendable = Damaged, mendable
	return c
}

func revokedSide(c Candidate) Candidate { c.Revoked = true; return c }

func edited(c Candidate) Candidate { c.Edited = true; return c }

func adopted(c Candidate) Candidate { c.Adopted = true; return c }

func unfit(c Candidate) Candidate { c.Unfit = true; return c }

func none(s State) Candidate { return Candidate{State: s} }

// TestDecide has the rows of the design's table "The decision".
func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name            string
		system, usrData Candidate
		action          Action
		from            SideName
		err             error
	}{
		{"nothing anywhere", none(Absent), none(Absent), "", "", ErrNoApplication},
		{"no backup", whole("1.0.0", 1, "a"), none(Absent), BackUp, System, nil},
		{"backup without a tag", whole("1.0.0", 1, "a"), none(Tagless), BackUp, System, nil},
		{"nothing on system", none(Absent), whole("1.0.0", 1, "a"), Restore, UsrData, nil},
		{"system without a tag", none(Tagless), whole("1.0.0", 1, "a"), Restore, UsrData, nil},
		{"system is higher", whole("1.10.0", 1, "a"), whole("1.9.0", 7, "b"), BackUp, System, nil},
		{"usr_data is higher", whole("1.0.0-rc.1", 9, "a"), whole("1.0.0", 1, "b"), Restore, UsrData, nil},
		{"whole numbers and semantic versions", whole("9", 1, "a"), whole("9.0.1", 1, "b"), Restore, UsrData, nil},
		{"in step", whole("1.0.0", 3, "a"), whole("1.0.0", 3, "a"), Nothing, System, nil},
		{"damage on system", damaged(whole("1.0.0", 3, "a"), true), whole("1.0.0", 3, "a"), Repair, System, nil},
		{"damage on usr_data", whole("1.0.0", 3, "a"), damaged(whole("1.0.0", 3, "a"), true), Repair, System, nil},
		{"damage on both, in different files", damaged(whole("1.0.0", 3, "a"), true), damaged(whole("1.0.0", 3, "a"), true), Repair, System, nil},
		{"damage on both, in the same file", damaged(whole("1.0.0", 3, "a"), false), damaged(whole("1.0.0", 3, "a"), false), Repair, System, nil},
		{"configuration changed", edited(whole("1.0.0", 3, "a")), whole("1.0.0", 3, "a"), Capture, System, nil},
		{"a capture that was not backed up", whole("1.0.0", 4, "b"), whole("1.0.0", 3, "a"), BackUp, System, nil},
		{"newer configuration on usr_data", whole("1.0.0", 1, "a"), whole("1.0.0", 3, "b"), RestoreConfig, UsrData, nil},
		{"newer configuration on usr_data, edits on system", edited(whole("1.0.0", 1, "a")), whole("1.0.0", 3, "b"), RestoreConfig, UsrData, nil},
		{"a factory image without a record", adopted(whole("1.0.0", 0, "")), whole("1.0.0", 3, "b"), RestoreConfig, UsrData, nil},
		{"the higher one is damaged beyond repair", damaged(whole("2.0.0", 1, "a"), false), whole("1.0.0", 1, "b"), Restore, UsrData, nil},
		{"the higher one on usr_data is damaged beyond repair", whole("1.0.0", 1, "b"), damaged(whole("2.0.0", 1, "a"), false), BackUp, System, nil},
		{"the higher one can be mended", damaged(whole("2.0.0", 1, "a"), true), whole("1.0.0", 1, "b"), BackUp, System, nil},
		{"a tag raised by hand", adopted(whole("1.1.0", 2, "a")), whole("1.0.0", 1, "a"), BackUp, System, nil},
		{"a tag raised by hand on usr_data", whole("1.0.0", 1, "a"), adopted(whole("1.1.0", 2, "a")), Restore, UsrData, nil},
		{"neither has a record", adopted(whole("1.0.0", 0, "")), adopted(whole("1.0.0", 0, "")), BackUp, System, nil},
		{"equal rank, different content", whole("1.0.0", 3, "a"), whole("1.0.0", 3, "b"), BackUp, System, nil},
		{"both without a tag", none(Tagless), none(Tagless), "", "", ErrDamage},
		{"one without a tag, the other absent", none(Tagless), none(Absent), "", "", ErrDamage},
		{"different versions, both damaged beyond repair", damaged(whole("2.0.0", 1, "a"), false), damaged(whole("1.0.0", 1, "b"), false), "", "", ErrDamage},
		{"the only side is damaged beyond repair", damaged(whole("2.0.0", 1, "a"), false), none(Absent), "", "", ErrDamage},
		{"usr_data not mounted", whole("1.0.0", 1, "a"), none(Unavailable), "", "", ErrUnavailable},
		{"system not mounted", none(Unavailable), whole("1.0.0", 1, "a"), "", "", ErrUnavailable},
		{"the higher one is revoked", revokedSide(whole("2.0.0", 1, "a")), whole("1.0.0", 1, "b"), Restore, UsrData, nil},
		{"the only one is revoked", revokedSide(whole("2.0.0", 1, "a")), none(Absent), BackUp, System, nil},
		{"revoked but whole before damaged", revokedSide(whole("2.0.0", 1, "a")), damaged(whole("1.0.0", 1, "b"), false), BackUp, System, nil},
		{"the higher one is another application's", whole("1.0.0", 1, "a"), unfit(whole("2.0.0", 1, "b")), BackUp, System, nil},
		{"system is another application's", unfit(whole("2.0.0", 1, "a")), whole("1.0.0", 1, "b"), Restore, UsrData, nil},
		{"both are another application's", unfit(whole("1.0.0", 1, "a")), unfit(whole("2.0.0", 1, "b")), Restore, UsrData, nil},
		{"the only one is another application's", unfit(whole("1.0.0", 1, "a")), none(Absent), BackUp, System, nil},
		{"damaged beyond repair beside another application", damaged(whole("1.0.0", 1, "a"), false), unfit(whole("2.0.0", 1, "b")), "", "", ErrDamage},
		{"nested by the vendor's script", whole("3", 1, "a"), with(adopted(whole("3", 1, "a")), func(c *Candidate) { c.Nested = true }), BackUp, System, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := Decide(tc.system, tc.usrData, Choice{})
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err != nil && strings.Contains(err.Error(), "no side holds") && (tc.system.whole() || tc.usrData.whole()) {
				t.Errorf("%v: one does", err)
			}
			if err == nil && (d.Action != tc.action || d.From != tc.from || d.Reason == "") {
				t.Errorf("%+v, want %s from %s with a reason", d, tc.action, tc.from)
			}
		})
	}
}

// TestReturn has system's version revoked, and one that is kept: the device returns to that
// where the backup has it, too, and else follows the backup.
func TestReturn(t *testing.T) {
	for kept, action := range map[string]Action{"1.0.0": Return, "0.9.0": Restore} {
		d, err := Decide(revokedSide(whole("2.0.0", 3, "a")), whole("1.0.0", 1, "b"), Choice{Kept: v(kept)})
		if err != nil || d.Action != action || action == Return && d.To.String() != kept {
			t.Errorf("%s is kept: %+v, %v, want %s", kept, d, err, action)
		}
	}
}
