// Package tuf reads TUF metadata that nobody vouches for yet. go-tuf 2.4.2
// takes parts of it for granted and panics where they are null.
package tuf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxDepth is more than any metadata needs.
const maxDepth = 32

// Check reports whether data can be given to go-tuf: one JSON object without
// null anywhere, not nested deeply. It says nothing about its content.
func Check(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	depth := 0
	for first := true; ; first = false {
		t, err := dec.Token()
		switch {
		case err == io.EOF && !first && depth == 0:
			return nil
		case err == io.EOF:
			return errors.New("ends too early: expected one JSON object")
		case err != nil:
			return err
		case t == nil:
			return fmt.Errorf("byte %d: null is no valid value here", dec.InputOffset())
		}
		if first && t != json.Delim('{') {
			return errors.New("expected a JSON object")
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if !first && depth == 0 {
				return fmt.Errorf("byte %d: expected one JSON object", dec.InputOffset())
			}
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return fmt.Errorf("byte %d: nested more than %d deep", dec.InputOffset(), maxDepth)
		}
	}
}

// Decode reads metadata of one type. It verifies no signature.
func Decode[T metadata.Roles](data []byte) (*metadata.Metadata[T], error) {
	if err := Check(data); err != nil {
		return nil, err
	}
	return new(metadata.Metadata[T]).FromBytes(data)
}
