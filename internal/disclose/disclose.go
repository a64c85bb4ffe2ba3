// Package disclose says which values leave the device, in reports of either format
// and in what doctor prints for others to read, and makes them fit to: one list, and
// what is not on it stays. No content of a file is on it, and no credentials.
package disclose

import (
	"encoding"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"sync"
)

// form is how a value leaves.
type form int

const (
	stays form = iota
	asIs       // a number, a time, a version, a name that the configuration or a release gives
	text       // for people: as Text has it
	group      // a list or document whose own values are listed one by one
)

// leaves is the list. docs/security.md says the same to people.
var leaves = map[string]form{
	// What the device is.
	"report.device": asIs, "report.app": asIs, "report.compatible": asIs, "report.agent": asIs,
	"report.time": asIs, "report.version": asIs, "report.release": asIs, "report.in_step": asIs, "report.pending": asIs, "report.events": group,
	"report.tandem": group, "report.tandem.previous": asIs, "report.tandem.kept": asIs, "report.tandem.pending": asIs,

	// What happened.
	"report.events.id": asIs, "report.events.time": asIs, "report.events.command": asIs, "report.events.action": asIs, "report.events.reason": text,
	"report.events.from": asIs, "report.events.version": asIs, "report.events.revision": asIs, "report.events.files": asIs, "report.events.bytes": asIs,
	"report.events.repaired": group, "report.events.error": text,
	"report.events.repaired.side": asIs, "report.events.repaired.path": text, "report.events.repaired.kind": asIs, "report.events.repaired.detail": text,

	// The same for a collector: the resource, and the labels of the metrics. The values
	// of metrics are numbers.
	"resource.service.name": asIs, "resource.service.version": asIs, "resource.service.instance.id": asIs,
	"resource.device.id": asIs, "resource.device.model.identifier": asIs, "resource.host.arch": asIs, "resource.os.type": asIs,
	"resource.tandem.app": asIs, "resource.tandem.compatible": asIs,
	"label.agent": asIs, "label.app": asIs, "label.side": asIs, "label.version": asIs, "label.state": asIs,

	// What doctor found.
	"doctor.findings": group, "doctor.findings.kind": asIs, "doctor.findings.about": text, "doctor.findings.found": text,
	"doctor.findings.consequence": text, "doctor.findings.advice": text,
	"doctor.error": text, "doctor.hint": text, "doctor.exit": asIs,
}

// Filter knows the secrets of a device.
type Filter struct{ secrets []string }

// minSecret is how long a secret must be, in bytes, to be looked for in texts: a
// shorter one would be found everywhere.
const minSecret = 4

// New returns a filter that also takes secrets out of all it lets pass, wherever
// somebody's message repeats them.
func New(secrets []string) Filter {
	var f Filter
	for _, s := range secrets {
		if len(s) >= minSecret {
			f.secrets = append(f.secrets, s)
		}
	}
	sort.Slice(f.secrets, func(i, j int) bool { return len(f.secrets[i]) > len(f.secrets[j]) }) // one may hold another
	return f
}

// Words returns a text for people as it may leave.
func (f Filter) Words(s string) string { return f.words(text, s) }

// Copy returns a copy of a document, such as "report": what the list does not name
// is empty in it, and what is not fit to leave is taken out of the rest.
func Copy[T any](f Filter, document string, value T) T {
	var out T
	f.copy(document, group, reflect.ValueOf(&out).Elem(), reflect.ValueOf(value))
	return out
}

// Value returns a text or a list of texts, and reports whether it may leave under a
// name.
func (f Filter) Value(name string, value any) (any, bool) {
	how := leaves[name]
	if how != asIs && how != text {
		return nil, false
	}
	in := reflect.ValueOf(value)
	out := reflect.New(in.Type()).Elem()
	f.copy(name, how, out, in)
	return out.Interface(), true
}

// copy fills out, which is empty, from a value of the same type.
func (f Filter) copy(name string, how form, out, in reflect.Value) {
	switch in.Kind() {
	case reflect.Struct:
		if _, whole := in.Interface().(encoding.TextMarshaler); whole { // a time, a version
			if how == asIs {
				out.Set(in)
			}
			return
		}
		if how != group {
			return
		}
		for i := range in.NumField() {
			field := in.Type().Field(i)
			inner, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			switch {
			case field.Anonymous && inner == "":
				f.copy(name, group, out.Field(i), in.Field(i))
			case field.IsExported():
				inner = name + "." + inner
				f.copy(inner, leaves[inner], out.Field(i), in.Field(i))
			}
		}
	case reflect.Array:
		if _, whole := in.Interface().(encoding.TextMarshaler); whole && how == asIs { // a hash
			out.Set(in)
		}
	case reflect.Slice:
		if how == stays || in.IsNil() {
			return
		}
		out.Set(reflect.MakeSlice(in.Type(), in.Len(), in.Len()))
		for i := range in.Len() {
			f.copy(name, how, out.Index(i), in.Index(i))
		}
	case reflect.String:
		if how == asIs || how == text {
			out.SetString(f.words(how, in.String()))
		}
	case reflect.Bool, reflect.Int, reflect.Int64:
		if how == asIs {
			out.Set(in)
		}
	}
}

func (f Filter) words(how form, s string) string {
	for _, secret := range f.secrets {
		s = strings.ReplaceAll(s, secret, "***")
	}
	if how == text {
		s = Text(s)
	}
	return s
}

// urls finds URLs, with a scheme and without.
var urls = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`//[^\s"'<>\x60]+`) })

// tag finds what a message quotes of a tag that is none: whatever lies in that file.
var tag = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(not a version: )"(?:[^"\\]|\\.)*"`) })

// Text returns a text for people in which no URL shows a user, a password, a query
// or a fragment, and nothing is quoted of a file.
func Text(s string) string {
	s = tag().ReplaceAllString(s, `$1"…"`)
	if !strings.Contains(s, "//") {
		return s
	}
	return urls().ReplaceAllStringFunc(s, func(u string) string {
		u = u[2:]
		end := ""
		if i := strings.IndexAny(u, "?#"); i >= 0 {
			whole := u
			u = u[:i]
			if bare := strings.TrimRight(whole, ".,:;)]}"); len(bare) > i {
				end = whole[len(bare):] // it belongs to the sentence
			}
		}
		host, path := u, ""
		if i := strings.IndexByte(u, '/'); i >= 0 {
			host, path = u[:i], u[i:]
		}
		host = host[strings.LastIndexByte(host, '@')+1:]
		return "//" + host + path + end
	})
}
