package release

import (
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
)

// haltedField is where a snapshot names the releases whose rollout is halted:
// a list of the SHA-256 of their release.json. It can only withhold, so that
// the key which signs it need not be one that decides what devices install.
const haltedField = "halted"

// Halts are releases that are withheld from devices which do not have them.
type Halts map[digest.SHA256]bool

// HaltsIn reads what a snapshot withholds. What cannot be read is left out, and
// the error says what that is.
func HaltsIn(s *metadata.SnapshotType) (Halts, error) {
	field, ok := s.UnrecognizedFields[haltedField]
	if !ok {
		return nil, nil
	}
	list, ok := field.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: expected a list", haltedField)
	}
	h, bad := Halts{}, error(nil)
	for i, entry := range list {
		text, _ := entry.(string) // what is none has too few digits
		sum, err := digest.Parse(text)
		switch {
		case err == nil:
			h[sum] = true
		case bad == nil:
			bad = fmt.Errorf("%s: entry %d: %w", haltedField, i+1, err)
		}
	}
	return h, bad
}

// Write has a snapshot withhold these and no others. It does not change what
// else the snapshot says.
func (h Halts) Write(s *metadata.SnapshotType) {
	fields := maps.Clone(s.UnrecognizedFields)
	if fields == nil {
		fields = map[string]any{}
	}
	delete(fields, haltedField)
	var list []any
	for _, sum := range slices.SortedFunc(maps.Keys(h), func(a, b digest.SHA256) int { return slices.Compare(a[:], b[:]) }) {
		list = append(list, sum.String())
	}
	if list != nil {
		fields[haltedField] = list
	}
	s.UnrecognizedFields = fields
}
