package agent

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	"tandem/agent/device"
	"tandem/backup"
	"tandem/internal/digest"
	"tandem/internal/disclose"
)

// docs/report.schema.json names each field of a report, and says of each
// whether it may be left out.
func TestReportSchema(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		schema
		Defs map[string]schema `json:"$defs"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		described schema
		value     any
	}{
		"report":  {doc.schema, Report{}},
		"Event":   {doc.Defs["Event"], device.Event{}},
		"Problem": {doc.Defs["Problem"], backup.Problem{}},
	} {
		fields, required := fieldsOf(reflect.TypeOf(c.value))
		fields = slices.DeleteFunc(fields, func(f string) bool { return name == "Event" && f == "by" }) // who asked stays here
		if got := slices.Sorted(maps.Keys(c.described.Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s: described %q, there are %q", name, got, fields)
		}
		slices.Sort(required)
		if got := slices.Sorted(slices.Values(c.described.Required)); !slices.Equal(got, required) {
			t.Errorf("%s: said to be there always: %q, there always: %q", name, got, required)
		}
	}
}

// A report names the release that runs, also once it went through what says which
// values may leave the device.
func TestReportNamesTheRelease(t *testing.T) {
	t.Parallel()
	r := Report{Release: digest.Of([]byte("release"))}
	if got := disclose.Copy(disclose.New(nil), "report", r); got.Release != r.Release {
		t.Errorf("release %s, want %s", got.Release, r.Release)
	}
}
