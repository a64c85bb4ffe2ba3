package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"tandem/internal/text"
)

// Unread returns a writer to f that goes on when nobody reads any more, because
// a pipe's reader has ended or a terminal has gone: what is written then is
// dropped. Each other failure is told.
func Unread(f *os.File) io.Writer {
	info, err := f.Stat()
	return unread{f, err == nil && info.Mode()&os.ModeCharDevice != 0}
}

type unread struct {
	w      io.Writer
	device bool
}

func (u unread) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	if errors.Is(err, syscall.EPIPE) || u.device && errors.Is(err, syscall.EIO) {
		return len(p), nil
	}
	return n, err
}

// OutlivePipes keeps a broken pipe from ending the program. The signal is
// taken, not ignored: programs that are started from here have it as usual.
func OutlivePipes() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// Message returns an error's text as one line, fit to be shown.
func Message(err error) string {
	return text.Line(strings.ReplaceAll(err.Error(), "\n", ": "))
}

// Document returns v as a JSON document, fit to be shown: in lines with an
// indent, or in one line.
func Document(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return text.JSON(b.Bytes()), nil
}
