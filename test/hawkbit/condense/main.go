// Condense makes of a folder of recorded requests and answers of a hawkBit server
// the lines that the stand-in is tested with.
//
//	go run ./test/hawkbit/condense DIR > test/hawkbit/testdata/exchanges.jsonl
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tandem/test/hawkbit"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: condense DIR")
		os.Exit(2)
	}
	if err := condense(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "condense:", err)
		os.Exit(1)
	}
}

func condense(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "[0-9]*.txt"))
	if err != nil {
		return err
	}
	var all []hawkbit.Exchange
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		e, err := read(strings.TrimSuffix(filepath.Base(name), ".txt"), string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, *e)
	}
	slices.SortStableFunc(all, func(a, b hawkbit.Exchange) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Number, b.Number))
	})
	return hawkbit.WriteExchanges(os.Stdout, all)
}

var (
	bytesOnly = regexp.MustCompile(`^\((\d+) bytes binary\)$`)
	cutShort  = regexp.MustCompile(`(?s)^(.*?)(.)\.\.\.\((\d+) bytes\)$`)
)

func read(name, text string) (*hawkbit.Exchange, error) {
	number, rest, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(number)
	if err != nil {
		return nil, err
	}
	e := &hawkbit.Exchange{Number: n, Name: strings.Trim(strings.ReplaceAll(rest, "-", " "), " ")}
	request, answer, ok := strings.Cut(text, "\n< HTTP/1.1 ")
	if !ok {
		return nil, fmt.Errorf("no answer")
	}
	head, body := part(request, "> ")
	first := strings.Fields(head[0])
	e.Method, e.URL = first[0], first[1]
	for _, h := range head[1:] {
		if strings.HasPrefix(h, "(") { // the operator
			continue
		}
		if form, ok := strings.CutPrefix(h, "form "); ok {
			e.Body = form
			continue
		}
		e.Header = append(e.Header, h)
	}
	if body != "" {
		e.Body = whole(body)
	}
	head, body = part("< "+answer, "< ")
	status, err := strconv.Atoi(strings.TrimSpace(head[0]))
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, h := range head[1:] {
		k, v, _ := strings.Cut(h, ": ")
		header.Set(k, v)
	}
	if e.At, err = http.ParseTime(header.Get("Date")); err != nil {
		return nil, err
	}
	content := []byte(body)
	if m := bytesOnly.FindStringSubmatch(body); m != nil {
		size, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		content = make([]byte, size)
	} else if body == "(empty)" {
		content = nil
	} else if header.Get("Content-Type") == "application/octet-stream" || header.Get("Content-Type") == "text/plain" {
		size, err := strconv.Atoi(header.Get("Content-Length"))
		if err == nil { // white space at the ends is not in the recording
			content = make([]byte, size)
		}
	}
	e.Answer, err = hawkbit.Normalise(e.Method, e.URL, status, header.Get, content)
	return e, err
}

// part gives the marked lines at the beginning, and what follows.
func part(text, mark string) (head []string, body string) {
	lines := strings.Split(text, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, mark) })
	for ; i < len(lines) && strings.HasPrefix(lines[i], mark); i++ {
		head = append(head, strings.TrimSpace(strings.TrimPrefix(lines[i], mark)))
	}
	return head, strings.TrimSpace(strings.Join(lines[i:], "\n"))
}

// whole gives back what a recording cut off: one character, to a length in all.
func whole(body string) string {
	m := cutShort.FindStringSubmatch(body)
	if m == nil {
		return body
	}
	size, err := strconv.Atoi(m[3])
	if err != nil {
		return body
	}
	const end = `"]}}`
	begin := m[1] + m[2]
	return begin + strings.Repeat(m[2], max(0, size-len(begin)-len(end))) + end
}
