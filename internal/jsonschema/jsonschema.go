// Package jsonschema checks documents against the schemas of the book. No program
// that is shipped contains it.
package jsonschema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Schema is a file of JSON schemas, which may refer to others beside it. A keyword
// that Valid does not know is an error, so that none is there for nothing.
type Schema struct {
	dir   string
	root  map[string]any
	files map[string]*Schema // by name
}

// Load reads a file.
func Load(file string) (*Schema, error) {
	return load(filepath.Dir(file), filepath.Base(file), map[string]*Schema{})
}

func load(dir, name string, files map[string]*Schema) (*Schema, error) {
	if s, ok := files[name]; ok {
		return s, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	s := &Schema{dir: dir, files: files}
	if err := json.Unmarshal(data, &s.root); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	files[name] = s
	return s, nil
}

// Valid says what is wrong with a document. ref names the schema, such as
// "#/$defs/status"; "#" is the file's own.
func (s *Schema) Valid(ref string, data []byte) error {
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	def, where, err := s.find(ref)
	if err != nil {
		return err
	}
	return where.check("document", def, doc)
}

// find returns what a reference leads to, and the file that it is in.
func (s *Schema) find(ref string) (map[string]any, *Schema, error) {
	file, path, _ := strings.Cut(ref, "#")
	if file != "" {
		other, err := load(s.dir, file, s.files)
		if err != nil {
			return nil, nil, err
		}
		s = other
	}
	at := s.root
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			continue
		}
		next, ok := at[name].(map[string]any)
		if !ok {
			return nil, nil, fmt.Errorf("the schema has no %s", ref)
		}
		at = next
	}
	return at, s, nil
}

func (s *Schema) check(at string, rules map[string]any, v any) error {
	for keyword, rule := range rules {
		if err := s.keyword(at, keyword, rule, rules, v); err != nil {
			return err
		}
	}
	return nil
}

// keyword holds a value against one keyword. Those that are about another type
// of value than v hold, as the standard says.
func (s *Schema) keyword(at, keyword string, rule any, rules map[string]any, v any) error {
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
		def, where, err := s.find(rule.(string))
		if err != nil {
			return err
		}
		return where.check(at, def, v)
	case "allOf":
		for _, each := range rule.([]any) {
			if err := s.check(at, each.(map[string]any), v); err != nil {
				return err
			}
		}
	case "oneOf":
		var errs []error
		for _, each := range rule.([]any) {
			if err := s.check(at, each.(map[string]any), v); err != nil {
				errs = append(errs, err)
			}
		}
		if n := len(rule.([]any)) - len(errs); n != 1 {
			return wrong("fits %d of its forms, expected one: %w", n, errors.Join(errs...))
		}
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
