package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	maxFile   = 16 << 20 // bytes that are read of one file
	maxAnswer = 4 << 30  // of a server's answer
	maxTold   = 20       // of what was left out
)

// extensions are those of files with reports, one after the other in each.
var extensions = []string{".json", ".jsonl", ".ndjson"}

// LeftOut is what was read and does not count.
type LeftOut struct {
	Count int     // how many reports or files
	Why   []error // of the first of them
}

func (l *LeftOut) add(where string, err error) {
	l.Count++
	if len(l.Why) < maxTold {
		l.Why = append(l.Why, fmt.Errorf("%s: %w", where, err))
	}
}

// ReadDir takes in the reports in a directory: DEVICE/NAME.json, where DEVICE is the
// name by which the collector knows the device, and a file holds one report or
// several, one after the other. Names that begin with a dot are passed over. What is no
// report is left out and told. The error is one of reading the directory itself.
func (f *Fleet) ReadDir(ctx context.Context, dir string) (left LeftOut, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return left, err
	}
	defer root.Close()
	devices, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return left, err
	}
	for _, d := range devices {
		switch {
		case strings.HasPrefix(d.Name(), "."):
			continue
		case !d.IsDir():
			left.add(d.Name(), fmt.Errorf("%w: expected it in a directory named for the device that the collector took it from", ErrReport))
			continue
		}
		files, err := fs.ReadDir(root.FS(), d.Name())
		if err != nil {
			return left, err
		}
		for _, e := range files {
			if err := ctx.Err(); err != nil {
				return left, err
			}
			name := path.Join(d.Name(), e.Name())
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if !e.Type().IsRegular() || !slices.Contains(extensions, path.Ext(e.Name())) {
				left.add(name, fmt.Errorf("%w: expected a file NAME.json", ErrReport))
				continue
			}
			if err := f.readFile(root, name, d.Name(), &left); err != nil {
				left.add(name, err)
			}
		}
	}
	return left, nil
}

func (f *Fleet) readFile(root *os.Root, name, from string, left *LeftOut) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := &io.LimitedReader{R: file, N: maxFile + 1}
	for dec := json.NewDecoder(in); ; {
		var raw json.RawMessage
		switch err := dec.Decode(&raw); {
		case err != nil && in.N == 0:
			return fmt.Errorf("%w: more than %d bytes in one file", ErrReport, maxFile)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrReport, err)
		}
		if err := f.add(from, raw); err != nil {
			left.add(name, err)
		}
	}
}

// Get takes in the reports that a server gives: one JSON object to a line, each with
// "from", the name by which the collector knows the device, and "report". Lines that
// are none are left out and told. The error is one of the server.
func (f *Fleet) Get(ctx context.Context, client *http.Client, address, token string) (left LeftOut, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return left, hideURL(err)
	}
	req.Header.Set("Accept", "application/x-ndjson, application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return left, fmt.Errorf("%s: %w", req.URL.Redacted(), hideURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return left, fmt.Errorf("%s: the server answered %s", req.URL.Redacted(), resp.Status)
	}
	err = f.readLines(resp.Body, &left)
	if err != nil {
		err = fmt.Errorf("%s: %w", req.URL.Redacted(), err)
	}
	return left, err
}

// hideURL keeps what a URL may carry, such as a password, out of an error.
func hideURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// readLines takes in lines. One that is too long is passed over as it comes.
func (f *Fleet) readLines(r io.Reader, left *LeftOut) error {
	const most = maxReport + 4096
	in := &io.LimitedReader{R: r, N: maxAnswer}
	lines := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	long := false
	for n := 1; ; {
		part, err := lines.ReadSlice('\n')
		if long = long || len(line)+len(part) > most; !long {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if text := bytes.TrimSpace(line); long || len(text) > 0 {
			if err := f.addLine(text, long); err != nil {
				left.add(fmt.Sprintf("line %d", n), err)
			}
		}
		if err != nil && in.N == 0 {
			return fmt.Errorf("%w: more than %d bytes", ErrReport, int64(maxAnswer))
		}
		if err != nil {
			return nil
		}
		line, long, n = line[:0], false, n+1
	}
}

func (f *Fleet) addLine(text []byte, long bool) error {
	if long {
		return fmt.Errorf("%w: longer than %d bytes", ErrReport, maxReport)
	}
	var doc struct {
		From   string          `json:"from"`
		Report json.RawMessage `json:"report"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrReport, err)
	}
	return f.add(doc.From, doc.Report)
}
