package backup

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/versioning"
)

// What is written entry by entry is what json.Marshal would write in one
// piece, and what is read entry by entry what json.Unmarshal would read.
func TestRecordIsJSON(t *testing.T) {
	odd := sampleRecord(t)
	odd.Config = append(odd.Config,
		&Entry{Path: `p "quoted" \ <tag> & %`, Type: Symlink, GID: 3, Mtime: -7, Target: "a\u2028b\x7f"},
		&Entry{Path: "q/ä", Type: Dir, Xattrs: map[string][]byte{"b": nil, "a": []byte("<")}, Fresh: true})
	sameVersions := cmp.Comparer(func(a, b versioning.Version) bool { return a.String() == b.String() })
	for _, r := range []*Record{sampleRecord(t), odd, {}, {Config: []*Entry{}, Manifest: Manifest{Files: []*Entry{}}}} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := r.writeBody(&got); err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("written:\n%s\nwant:\n%s", &got, want)
		}
		var plain Record
		if err := json.Unmarshal(want, &plain); err != nil {
			t.Fatal(err)
		}
		read, err := parseRecord(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&plain, read, sameVersions); diff != "" {
			t.Errorf("%s: read differently (-json.Unmarshal +parseRecord):\n%s", want, diff)
		}
	}
}
