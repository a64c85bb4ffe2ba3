package device

import (
	"fmt"
	"testing"
	"time"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/ota"
)

// What was full decides: neither does room elsewhere have a release tried
// again, nor does an elsewhere that fills up keep it away.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	const system, usrData, state = "/usrapp/apprun", "/usrdata/appbackup", "/usrdata/tandem"
	var m Machine
	free := func(s, u, st int64) map[string]int64 { return map[string]int64{system: s, usrData: u, state: st} }
	c := Course{SHA256: digest.Of([]byte("a release"))}
	for _, f := range []struct {
		err  error
		full string
	}{
		{fmt.Errorf("usr_data: %w", &backup.SpaceError{Path: usrData}), usrData},
		{&backup.SpaceError{Path: system + "/.tandem"}, system},
		{&backup.SpaceError{Path: state + "/firmware/modem"}, state},
		{fmt.Errorf("download: %w", ota.ErrNoSpace), state},
	} {
		m.bar(noRoom(c, f.err, free(1000, 1000, 1000), state, 100))
		for _, now := range []struct {
			free  map[string]int64
			grown []string // by enough
		}{
			{free(1000, 1000, 1000), nil},
			{free(1100, 1100, 1100), nil},
			{free(1101, 0, 0), []string{system}},
			{free(0, 1101, 0), []string{usrData}},
			{free(0, 0, 1101), []string{state}},
		} {
			want := len(now.grown) == 1 && now.grown[0] == f.full
			if got := m.barred(c.SHA256, time.Now(), now.free) == nil; got != want {
				t.Errorf("%v, now free %v: tried again: %t, want %t", f.err, now.free, got, want)
			}
		}
	}
}
