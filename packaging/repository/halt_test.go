package repository

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"tandem/internal/digest"
	"tandem/packaging/internal/testkeys"
)

// A halt is written beside what the snapshot says besides, needs the online keys
// alone, and goes on with each change until it is taken back.
func TestHalt(t *testing.T) {
	dir, r := initialised(t)
	rel, err := r.Add(context.Background(), bytes.NewReader(pack(t, "1.0.0", "demo", "targets")), testkeys.Keys{}, AddOptions{})
	must(t, err)
	s, err := r.load()
	must(t, err)
	s.snapshot.Signed.UnrecognizedFields = map[string]any{"later": "x", "halted": []any{"garbage", 7.0, digest.Of([]byte("gone")).String()}}
	s.halts = nil
	must(t, r.refresh(s, testkeys.Keys{}))
	fields := func() map[string]any {
		s, err := r.load()
		must(t, err)
		return s.snapshot.Signed.UnrecognizedFields
	}
	if got := fields(); got["later"] != "x" || got["halted"] != nil {
		t.Errorf("fields of the snapshot: %v", got)
	}
	online := testkeys.Keys{"targets": "stranger", "root": "stranger"}
	if n, err := r.Halt(online, false, rel.Release, rel.Release); n != 1 || err != nil {
		t.Errorf("halted %d, %v", n, err)
	}
	if n, err := r.Halt(online, false, rel.Release); n != 0 || err != nil {
		t.Errorf("halted again: %d, %v", n, err)
	}
	must(t, r.Refresh(online))
	if got := fields(); got["later"] != "x" || len(got["halted"].([]any)) != 1 || got["halted"].([]any)[0] != rel.Release.String() {
		t.Errorf("fields of the snapshot: %v", got)
	}
	if _, err := device(dir, start); err != nil {
		t.Errorf("a device: %v", err)
	}
	if _, _, err := r.StageRollout("1.0.0", "", 100, false); err != nil {
		t.Errorf("the same percentage: %v", err)
	}
	if n, err := r.Halt(online, true, rel.Release); n != 1 || err != nil {
		t.Errorf("resumed %d, %v", n, err)
	}
	if got := fields(); got["later"] != "x" || got["halted"] != nil {
		t.Errorf("fields of the snapshot: %v", got)
	}
	// More than devices would read is refused, and changes nothing.
	var many []digest.SHA256
	for i := range 4000 {
		many = append(many, digest.Of([]byte{byte(i), byte(i >> 8)}))
	}
	if _, err := r.Halt(online, false, many...); err == nil || !strings.Contains(err.Error(), "devices read at most") {
		t.Errorf("4,000 halts: %v", err)
	}
	if got := fields(); got["halted"] != nil {
		t.Errorf("fields of the snapshot: %v", got)
	}
}

// Entries that cannot be read are left out by devices, and checked for.
func TestBadHalts(t *testing.T) {
	_, r := initialised(t)
	s, err := r.load()
	must(t, err)
	s.halts = nil
	s.snapshot.Signed.UnrecognizedFields = map[string]any{}
	files, err := r.documents(s, testkeys.Keys{}, nil, s.root)
	must(t, err)
	s.snapshot.Signed.UnrecognizedFields = map[string]any{"halted": []any{"garbage", digest.Of([]byte("1")).String()}}
	s.snapshot.ClearSignatures()
	raw, err := signed(s.snapshot, testkeys.Keys{}, "snapshot", s.root)
	must(t, err)
	files[0].raw = raw
	s.timestamp.Signed.Meta["snapshot.json"] = pinned(s.snapshot.Signed.Version, raw)
	s.timestamp.ClearSignatures()
	files[1].raw, err = signed(s.timestamp, testkeys.Keys{}, "timestamp", s.root)
	must(t, err)
	must(t, r.write(files))
	s, err = r.load()
	must(t, err)
	if !s.halts[digest.Of([]byte("1"))] || len(s.halts) != 1 {
		t.Errorf("halts: %v", s.halts)
	}
	rep, err := r.Check(context.Background())
	must(t, err)
	if len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].String(), `halted: entry 1: digest "garbage"`) {
		t.Errorf("problems: %v", rep.Problems)
	}
}
