package device

import (
	"testing"

	"tandem/packaging/release"
	"tandem/versioning"
)

// Why a version failed is told from the moment on that it is given up, by what is
// noted then, or what the history says later.
func TestCauses(t *testing.T) {
	t.Parallel()
	v := func(text string) versioning.Version {
		v, err := versioning.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	bad, other := v("2.0.0"), v("1.9.0")
	unit := Unit{Kind: release.App, Name: "hello", Revoked: []versioning.Version{other, bad}}
	given := unit
	given.Failed, given.Why = bad, rolledBackFor+"unhealthy"
	for _, c := range []struct {
		name   string
		unit   Unit
		events []Event
		want   string
	}{
		{"by hand", unit, nil, "revoked here"},
		{"the history has yet to hear of it", given, nil, "rolled back: unhealthy"},
		{"the history has it", unit, []Event{rolledBack(bad, v("1.0.0"), "no answer", nil)}, "rolled back: no answer"},
		{"nothing to return to", unit, []Event{rolledBack(bad, bad, "no answer", ErrUnhealthy)}, "no answer; " + ErrUnhealthy.Error()},
		{"gone back from by hand", unit, []Event{rolledBack(bad, v("1.0.0"), "", nil)}, "rolled back"},
	} {
		if got := causes(c.unit, c.events); got["2.0.0"] != c.want || got["1.9.0"] != "revoked here" {
			t.Errorf("%s: %q: expected %q", c.name, got, c.want)
		}
	}
}
