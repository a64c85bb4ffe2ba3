package jsonschema

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong with a report is found.
func TestReport(t *testing.T) {
	t.Parallel()
	s, err := Load("../../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	good := `{"device":"d","app":"hello","compatible":["demo"],"agent":"1.0.0","time":"2026-01-02T03:04:05Z","version":"1.1.0","in_step":true,
"events":[{"id":"5f0c93a1-17","time":"2026-01-02T03:04:05Z","command":"update","action":"pending","from":"1.0.0","version":"1.1.0","bytes":12,
"repaired":[{"side":"system","path":"bin/hello","kind":"damaged","detail":"SHA-256"}]}]}`
	if err := s.Valid("#", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"device":"d",`, ``},
		{`"device":"d"`, `"device":1`},
		{`"device":"d"`, `"device":"d","more":1`},
		{`"compatible":["demo"]`, `"compatible":null`},
		{`"compatible":["demo"]`, `"compatible":[""]`},
		{`05Z","version":"1.1.0","in_step"`, `05.5Z","version":"1.1.0","in_step"`},
		{`2026-01-02T`, `2026-13-02T`},
		{`"version":"1.1.0","in_step"`, `"version":"newest","in_step"`},
		{`"id":"5f0c93a1-17"`, `"id":"17"`},
		{`"command":"update"`, `"command":"dance"`},
		{`"action":"pending"`, `"action":"hoped"`},
		{`"bytes":12`, `"bytes":-1`},
		{`"bytes":12`, `"bytes":1.5`},
		{`"kind":"damaged"`, `"kind":"odd"`},
		{`"kind":"damaged",`, ``},
		{`"repaired":[{`, `"repaired":[],"error":"","x":[{`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s is not there", c[0])
		}
		if s.Valid("#", []byte(bad)) == nil {
			t.Errorf("%s for %s is found to be valid", c[1], c[0])
		}
	}
}

// References, alternatives, and what must not be let through.
func TestValid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.json": `{"$defs": {"one": {"allOf": [{"$ref": "b.json#/parts/two"}, {"required": ["y"]}]}, "odd": {"dance": true},
			"either": {"oneOf": [{"type": "string"}, {"type": "null"}]}, "both": {"oneOf": [{"type": "string"}, {"pattern": "x"}]}}}`,
		"b.json": `{"parts": {"two": {"properties": {"x": {"$ref": "#/parts/number"}}}, "number": {"type": "integer"}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(filepath.Join(dir, "a.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref, doc string
		ok       bool
	}{
		{"#/$defs/one", `{"x": 1, "y": 2}`, true},
		{"#/$defs/one", `{"x": "1", "y": 2}`, false},
		{"#/$defs/one", `{"x": 1}`, false},
		{"#/$defs/either", `null`, true},
		{"#/$defs/either", `1`, false},
		{"#/$defs/both", `"x"`, false},
		{"#/$defs/odd", `1`, false},
		{"#/$defs/none", `1`, false},
		{"#/$defs/one", `{`, false},
	} {
		if err := s.Valid(c.ref, []byte(c.doc)); (err == nil) != c.ok {
			t.Errorf("%s: %s: %v", c.ref, c.doc, err)
		}
	}
}
