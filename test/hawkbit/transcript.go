package hawkbit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Exchange is a request to a real server and what it answered, cut down to what
// a stand-in has to do alike.
type Exchange struct {
	Number int       `json:"n"` // in the order of the runs; two runs share some
	Name   string    `json:"name"`
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	URL    string    `json:"url"`
	Header []string  `json:"header,omitempty"` // NAME: VALUE
	Body   string    `json:"body,omitempty"`
	Answer Answer    `json:"answer"`
}

// Answer is what a server answered, normalised.
type Answer struct {
	Status int             `json:"status"`
	Header []string        `json:"header,omitempty"`
	JSON   json.RawMessage `json:"json,omitempty"`
	Length int             `json:"length,omitempty"` // of a body that is no JSON
}

// comparedHeaders are those in which a stand-in must agree.
var comparedHeaders = []string{"Accept", "Accept-Ranges", "Allow", "Content-Range", "Content-Type", "Etag"}

var (
	anyHash   = regexp.MustCompile(`\b(?:[0-9a-f]{64}|[0-9a-f]{40}|0?[0-9a-f]{32})\b`)
	anyChange = regexp.MustCompile(`\?c=\d+`)
)

// notCompared are the keys of answers that depend on the time, or that tell an
// operator what no device and no test needs.
var notCompared = []string{
	"createdAt", "createdBy", "lastModifiedAt", "lastModifiedBy", "timestamp", "reportedAt", "address", "ipAddress",
	"lastControllerRequestAt", "pollStatus", "installedAt", "activatedAt", "forceTime",
}

// Normalise makes answers of two servers, to the same request, comparable.
func Normalise(method, url string, status int, header func(name string) string, body []byte) (Answer, error) {
	a := Answer{Status: status}
	kind, _, _ := strings.Cut(header("Content-Type"), ";")
	operator := strings.Contains(url, "/rest/v1/")
	for _, name := range comparedHeaders {
		value := header(name)
		if value == "" || operator && name == "Etag" {
			continue
		}
		value = anyHash.ReplaceAllString(value, "HASH")
		if kind == "application/cbor" && name == "Etag" {
			value = `"HASH"`
		}
		a.Header = append(a.Header, name+": "+value)
	}
	if method == "HEAD" || len(body) == 0 {
		return a, nil
	}
	if !strings.HasSuffix(kind, "json") {
		if !strings.Contains(kind, "html") && !strings.Contains(kind, "cbor") {
			a.Length = len(body)
		}
		return a, nil
	}
	// Of rollouts and kinds of things an operator sees more than is needed here.
	if operator && (strings.Contains(url, "/rollouts") || strings.Contains(url, "types")) {
		return a, nil
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return a, fmt.Errorf("%s %s: %w: %.200s", method, url, err, body)
	}
	data, err := json.Marshal(normalise(value, operator))
	if err != nil {
		return a, err
	}
	data = anyHash.ReplaceAll(data, []byte("HASH"))
	a.JSON = anyChange.ReplaceAll(data, []byte("?c=*"))
	return a, nil
}

func normalise(value any, operator bool) any {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range notCompared {
			delete(v, key)
		}
		if operator {
			delete(v, "_links")
		}
		if _, ok := v["messages"]; ok && v["type"] != nil { // a status
			delete(v, "id")
		}
		for key, x := range v {
			v[key] = normalise(x, operator)
		}
		for _, key := range []string{"chunks", "modules"} { // their order is by chance
			if list, ok := v[key].([]any); ok {
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(name(a), name(b)) })
			}
		}
	case []any:
		for i := range v {
			v[i] = normalise(v[i], operator)
		}
	}
	return value
}

func name(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["name"].(string)
	return s
}

// WriteExchanges writes one exchange to a line.
func WriteExchanges(w io.Writer, all []Exchange) error {
	for _, e := range all {
		data, err := marshal(e)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, abbreviations(false).Replace(string(shorten(data)))); err != nil {
			return err
		}
	}
	return nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// ReadExchanges reads what WriteExchanges wrote.
func ReadExchanges(r io.Reader) ([]Exchange, error) {
	var all []Exchange
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, err := lengthen([]byte(abbreviations(true).Replace(lines.Text())))
		if err != nil {
			return nil, err
		}
		var e Exchange
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, lines.Err()
}

// abbreviations shortens what most lines have in common, or, back, writes it out.
func abbreviations(back bool) *strings.Replacer {
	pairs := []string{
		"http://127.0.0.1:8180/DEFAULT/controller/v1/", "{{D}}",
		"http://127.0.0.1:8180/rest/v1/", "{{M}}",
		`"header":["Authorization: TargetToken `, "{{T}}",
		`"Content-Type: application/json"`, "{{J}}",
		`"answer":{"status":200,"header":["Content-Type: application/hal+json","Etag: \"HASH\""],"json":`, "{{A}}",
		`"hashes":{"md5":"HASH","sha1":"HASH","sha256":"HASH"}`, "{{H}}",
		`"artifacts":[{"_links":{"download-http":{"href":"`, "{{L}}",
		`org.eclipse.hawkbit.repository.exception.`, "{{E}}",
		`"name":"`, "{{N}}",
		`"messages":["`, "{{S}}",
	}
	if back {
		for i := 0; i < len(pairs); i += 2 {
			pairs[i], pairs[i+1] = pairs[i+1], pairs[i]
		}
	}
	return strings.NewReplacer(pairs...)
}

// shorten writes a long run of one character as {{C*N}}.
func shorten(line []byte) []byte {
	var out bytes.Buffer
	for len(line) > 0 {
		n := 1
		for n < len(line) && line[n] == line[0] {
			n++
		}
		if n > 20 {
			fmt.Fprintf(&out, "{{%c*%d}}", line[0], n)
		} else {
			out.Write(line[:n])
		}
		line = line[n:]
	}
	return out.Bytes()
}

var run = regexp.MustCompile(`\{\{(.)\*(\d+)\}\}`)

func lengthen(line []byte) ([]byte, error) {
	var err error
	return run.ReplaceAllFunc(line, func(match []byte) []byte {
		var n int
		if _, e := fmt.Sscanf(string(match[4:len(match)-2]), "%d", &n); e != nil {
			err = e
		}
		return bytes.Repeat(match[2:3], n)
	}), err
}
