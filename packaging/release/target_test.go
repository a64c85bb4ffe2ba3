package release

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestParseTarget(t *testing.T) {
	const some = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	target := func(custom string) *metadata.TargetFiles {
		raw := json.RawMessage(custom)
		return &metadata.TargetFiles{Length: 5, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}, Custom: &raw}
	}
	r, err := ParseTarget("a.tandem", target(`{"app":"a","version":"1.0.0","channels":{"stable":{}},"release":"`+some+`","later":{"x":1}}`))
	if err != nil || r.Channels["stable"].Rollout != 100 || r.Kind != App || r.Yanked || !r.Base.IsZero() {
		t.Errorf("defaults: %+v, %v", r, err)
	}
	r, err = ParseTarget("a.tandem", target(`{"app":"a","version":"1.0.0","channels":{"stable":{"rollout":0,"later":1},"beta":{"yanked":true}},"recall":{"to":"0.9.0","rollout":10},"release":"`+some+`","yanked":true,"urgent":true,"base":"0.9.0","kind":"firmware"}`))
	if err != nil || r.Channels["stable"].Rollout != 0 || !r.Channels["beta"].Yanked || r.Recall.Rollout != 10 || r.Recall.To.String() != "0.9.0" || !r.TakenBack() || !r.Yanked || !r.Urgent || r.Base.String() != "0.9.0" || r.Kind != Firmware {
		t.Errorf("all given: %+v, %v", r, err)
	}
	const ok = `{"app":"a","version":"1.0.0","channels":{"stable":{}},"release":"` + some + `"}`
	noHash := target(ok)
	noHash.Hashes = nil
	longHash := target(ok)
	longHash.Hashes["sha256"] = make([]byte, 33)
	empty := target(ok)
	empty.Length = 0
	for name, c := range map[string]struct {
		name string
		t    *metadata.TargetFiles
	}{
		"nil":           {"a", nil},
		"no custom":     {"a", &metadata.TargetFiles{Length: 5, Hashes: target("").Hashes}},
		"garbage":       {"a", target(`garbage`)},
		"no version":    {"a", target(`{"app":"a","channels":{"stable":{}},"release":"` + some + `"}`)},
		"bad version":   {"a", target(`{"app":"a","channels":{"stable":{}},"release":"` + some + `","version":"v1"}`)},
		"no release":    {"a", target(`{"app":"a","version":"1.0.0","channels":{"stable":{}}}`)},
		"zero release":  {"a", target(`{"app":"a","version":"1.0.0","channels":{"stable":{}},"release":"` + strings.Repeat("0", 64) + `"}`)},
		"long head":     {"a", target(strings.Replace(ok, "{", `{"head":5,`, 1))},
		"rollout 101":   {"a", target(`{"app":"a","version":"1.0.0","channels":{"stable":{"rollout":101}},"release":"` + some + `"}`)},
		"recall 101":    {"a", target(`{"app":"a","version":"1.0.0","channels":{"stable":{}},"recall":{"rollout":101},"release":"` + some + `"}`)},
		"no channels":   {"a", target(`{"app":"a","version":"1.0.0","channels":{},"release":"` + some + `"}`)},
		"a channel":     {"a", target(`{"app":"a","version":"1.0.0","channels":{"a b":{}},"release":"` + some + `"}`)},
		"channels list": {"a", target(`{"app":"a","version":"1.0.0","channels":["stable"],"release":"` + some + `"}`)},
		"rollout -1":    {"a", target(`{"app":"a","version":"1.0.0","channels":{"stable":{"rollout":-1}},"release":"` + some + `"}`)},
		"no hash":       {"a", noHash},
		"long hash":     {"a", longHash},
		"length 0":      {"a", empty},
		"a path":        {"../a", target(ok)},
		"a directory":   {"x/a", target(ok)},
		"hidden":        {".a", target(ok)},
		"name too long": {strings.Repeat("a", 300), target(ok)},
	} {
		if _, err := ParseTarget(c.name, c.t); !errors.Is(err, ErrTarget) {
			t.Errorf("%s: error %v, want ErrTarget", name, err)
		}
	}
}
