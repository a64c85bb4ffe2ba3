package agent

import (
	"testing"

	"tandem/internal/disclose"
	"tandem/versioning"
)

// What a report has of Tandem itself is on the list of what may leave a device.
func TestReportTellsOfTandemItself(t *testing.T) {
	t.Parallel()
	v, err := versioning.Parse("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	r := disclose.Copy(disclose.New(nil), "report", Report{Tandem: AgentVersions{v, v, v}})
	if r.Tandem.Previous.IsZero() || r.Tandem.Kept.IsZero() || r.Tandem.Pending.IsZero() {
		t.Errorf("left of it is %+v", r.Tandem)
	}
}
