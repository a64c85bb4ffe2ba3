package tuf

import (
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/internal/testkeys"
)

func TestCheck(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                  "",
		`{"a":[1,{"b":""}]} `: "",
		``:                    "ends too early",
		`{"a":`:               "ends too early",
		`{"a":{}`:             "ends too early",
		`[]`:                  "expected a JSON object",
		`null`:                "null",
		`1`:                   "expected a JSON object",
		`{"a":null}`:          "null",
		`{"a":[null]}`:        "null",
		`{}{}`:                "one JSON object",
		`{} x`:                "invalid character",
		strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40): "nested",
	} {
		err := Check([]byte(in))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Check(%.60s) = %v, want %q", in, err, want)
		}
	}
}

// What go-tuf 2.4.2 panics on.
func TestDecodeDoesNotPanic(t *testing.T) {
	for _, in := range []string{
		`{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`,
		`{"signed":{"_type":"targets","targets":{"x":{}},"delegations":{"keys":{"a":null},"roles":[null]}},"signatures":[null]}`,
	} {
		if _, err := Decode[metadata.TargetsType]([]byte(in)); err == nil {
			t.Errorf("%s: accepted", in)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(testkeys.Root(f, testkeys.RootSpec{}))
	f.Add([]byte(`{"signed":{"_type":"targets","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31","targets":{"a":{"hashes":{"sha256":"00"},"length":1,"custom":{"x":1}}},"version":1,"delegations":{"keys":{},"roles":[{"name":"r","keyids":[],"threshold":1,"terminating":false,"paths":["*"]}]}},"signatures":[{"keyid":"a","sig":"00"}]}`))
	f.Add([]byte(`{"signed":{"_type":"snapshot","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31","meta":{"targets.json":{"version":1,"length":2,"hashes":{}}},"version":1},"signatures":[]}`))
	f.Add([]byte(`{"signed":{"_type":"timestamp","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31","meta":{"snapshot.json":{"version":1}},"version":1},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		root, _ := Decode[metadata.RootType](testkeys.Root(t, testkeys.RootSpec{}))
		if m, err := Decode[metadata.RootType](data); err == nil {
			_ = root.VerifyDelegate(metadata.ROOT, m)
			_, _ = m.ToBytes(false)
		}
		if m, err := Decode[metadata.TargetsType](data); err == nil {
			_ = root.VerifyDelegate(metadata.TARGETS, m)
			_, _ = m.ToBytes(false)
		}
		if m, err := Decode[metadata.SnapshotType](data); err == nil {
			_ = root.VerifyDelegate(metadata.SNAPSHOT, m)
		}
		if m, err := Decode[metadata.TimestampType](data); err == nil {
			_ = root.VerifyDelegate(metadata.TIMESTAMP, m)
		}
	})
}
