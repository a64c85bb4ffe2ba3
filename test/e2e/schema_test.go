package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// schema is a JSON schema. A keyword that valid does not know is an error, so
// that none is there for nothing.
type schema map[string]any

func loadSchema(t testing.TB) schema {
	t.Helper()
	data, err := os.ReadFile("../../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// valid says what is wrong with a document.
func (s schema) valid(data []byte) error {
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	return s.check("report", s, doc)
}

func (s schema) check(at string, rules schema, v any) error {
	for keyword, rule := range rules {
		if err := s.keyword(at, keyword, rule, rules, v); err != nil {
			return err
		}
	}
	return nil
}

// keyword holds a value against one keyword. Those that are about another type
// of value than v hold, as the standard says.
func (s schema) keyword(at, keyword string, rule any, rules schema, v any) error {
	object, _ := v.(map[string]any)
	list, isList := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %v: "+format, append([]any{at, v}, args...)...)
	}
	switch keyword {
	case "$schema", "$defs", "title", "description":
	case "$ref":
		name := strings.TrimPrefix(rule.(string), "#/$defs/")
		def, ok := s["$defs"].(map[string]any)[name].(map[string]any)
		if !ok {
			return fmt.Errorf("the schema has no %v", rule)
		}
		return s.check(at, def, v)
	case "type":
		if got := typeOf(v); got != rule && (rule != "number" || got != "integer") {
			return wrong("expected %v", rule)
		}
	case "enum":
		if !slices.Contains(rule.([]any), v) {
			return wrong("expected one of %v", rule)
		}
	case "properties":
		for name, value := range object {
			if p, ok := rule.(map[string]any)[name].(map[string]any); ok {
				if err := s.check(at+"."+name, p, value); err != nil {
					return err
				}
			}
		}
	case "required":
		for _, name := range rule.([]any) {
			if _, ok := object[name.(string)]; object != nil && !ok {
				return wrong("no %v", name)
			}
		}
	case "additionalProperties":
		for name := range object {
			if _, ok := rules["properties"].(map[string]any)[name]; !ok && rule == false {
				return wrong("unexpected %q", name)
			}
		}
	case "items":
		for i, item := range list {
			if err := s.check(fmt.Sprintf("%s[%d]", at, i), rule.(map[string]any), item); err != nil {
				return err
			}
		}
	case "minItems":
		if isList && float64(len(list)) < rule.(float64) {
			return wrong("expected at least %v", rule)
		}
	case "maxItems":
		if isList && float64(len(list)) > rule.(float64) {
			return wrong("expected at most %v", rule)
		}
	case "minLength":
		if isText && float64(len([]rune(text))) < rule.(float64) {
			return wrong("shorter than %v", rule)
		}
	case "minimum":
		if isNumber && number < rule.(float64) {
			return wrong("less than %v", rule)
		}
	case "pattern":
		if isText && !regexp.MustCompile(rule.(string)).MatchString(text) {
			return wrong("does not match %v", rule)
		}
	case "format":
		if _, err := time.Parse(time.RFC3339, text); rule != "date-time" || isText && err != nil {
			return wrong("not in the format %v", rule)
		}
	default:
		return fmt.Errorf("%s: the keyword %q is not known", at, keyword)
	}
	return nil
}

func typeOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
		return "number"
	}
	return "null"
}

// The check of reports finds what is wrong with one.
func TestSchema(t *testing.T) {
	t.Parallel()
	s := loadSchema(t)
	good := `{"device":"d","app":"hello","compatible":["demo"],"agent":"1.0.0","time":"2026-01-02T03:04:05Z","version":"1.1.0","in_step":true,
"events":[{"id":"5f0c93a1-17","time":"2026-01-02T03:04:05Z","command":"update","action":"pending","from":"1.0.0","version":"1.1.0","bytes":12,
"repaired":[{"side":"system","path":"bin/hello","kind":"damaged","detail":"SHA-256"}]}]}`
	if err := s.valid([]byte(good)); err != nil {
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
		if s.valid([]byte(bad)) == nil {
			t.Errorf("%s for %s is found to be valid", c[1], c[0])
		}
	}
	if err := (schema{"pattern": "x", "oneOf": []any{}}).valid([]byte(`"x"`)); err == nil {
		t.Error("a keyword that nobody checks is let through")
	}
}
