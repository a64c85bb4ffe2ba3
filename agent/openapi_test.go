package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/agent/page"
	"tandem/backup"
	"tandem/ota/hawkbit"
)

type schema struct {
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
}

// docs/openapi.json names each operation and each field that there is, and
// none that there is not.
func TestOpenAPI(t *testing.T) {
	data, err := os.ReadFile("../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var described []string
	for path, methods := range doc.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(described)
	if routes := slices.Sorted(maps.Keys((&Agent{}).routes())); !slices.Equal(described, routes) {
		t.Errorf("described %q, served %q", described, routes)
	}
	types := map[string]any{
		"Failure": device.Failure{}, "Problem": backup.Problem{}, "Finished": backup.Finished{}, "Event": device.Event{},
		"Side": device.SideStatus{}, "Pending": backup.Pending{}, "FirmwareStatus": device.FirmwareStatus{}, "Progress": device.Progress{},
		"AgentStatus": device.AgentStatus{}, "Underway": device.Underway{}, "Cancelled": Cancelled{}, "Status": device.Status{}, "Message": Message{}, "AnswerFirmware": device.AnswerFirmware{},
		"Answer": device.Answer{}, "UpdatedFirmware": device.UpdatedFirmware{}, "Updated": device.Updated{}, "Recalled": device.Recalled{}, "Reconciliation": device.Reconciliation{},
		"SourceStatus": device.SourceStatus{}, "ActionStatus": device.ActionStatus{}, "Waiting": hawkbit.Waiting{}, "TandemStatus": device.TandemStatus{}, "ConfirmedUpdate": device.ConfirmedUpdate{},
		"Log": Log{}, "LogLine": page.LogLine{}, "History": History{}, "Asides": Asides{}, "AsideEntry": backup.Aside{}, "Diagnosis": doctor.Diagnosis{}, "Finding": doctor.Finding{},
	}
	if a, b := slices.Sorted(maps.Keys(types)), slices.Sorted(maps.Keys(doc.Components.Schemas)); !slices.Equal(a, b) {
		t.Errorf("described %q, there are %q", b, a)
	}
	for name, value := range types {
		fields, required := fieldsOf(reflect.TypeOf(value))
		s := doc.Components.Schemas[name]
		if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s: described %q, there are %q", name, got, fields)
		}
		for _, r := range s.Required {
			if !slices.Contains(required, r) {
				t.Errorf("%s: %s is said to be there always, but may be left out", name, r)
			}
		}
	}
}

// fieldsOf gives the names of a type's JSON fields, and of those that are
// never left out.
func fieldsOf(t reflect.Type) (all, required []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			a, r := fieldsOf(f.Type)
			all, required = append(all, a...), append(required, r...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = fmt.Sprint("no name for ", f.Name)
		}
		all = append(all, name)
		if options == "" {
			required = append(required, name)
		}
	}
	slices.Sort(all)
	return all, required
}
