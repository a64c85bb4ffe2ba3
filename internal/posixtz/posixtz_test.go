package posixtz

import (
	"io/fs"
	"testing"
	"time"
	_ "time/tzdata" // the zones, wherever the test runs
)

// A POSIX string means what the zone's file says.
func TestParseAgainstFiles(t *testing.T) {
	t.Parallel()
	for posix, name := range map[string]string{
		"CST-8":                                "Asia/Shanghai",
		"<+0330>-3:30":                         "Asia/Tehran",
		"CET-1CEST,M3.5.0,M10.5.0/3":           "Europe/Berlin",
		"EST5EDT,M3.2.0,M11.1.0":               "America/New_York",
		"AEST-10AEDT,M10.1.0,M4.1.0/3":         "Australia/Sydney",
		"NZST-12NZDT,M9.5.0,M4.1.0/3":          "Pacific/Auckland",
		"<-03>3":                               "America/Sao_Paulo",
		"NPT-5:45":                             "Asia/Kathmandu",
		"<+1030>-10:30<+11>-11,M10.1.0,M4.1.0": "Australia/Lord_Howe",
	} {
		got, err := parse(posix)
		if err != nil {
			t.Errorf("%s: %v", posix, err)
			continue
		}
		want, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := time.Date(2024, 1, 1, 0, 30, 0, 0, time.UTC); at.Year() < 2027; at = at.Add(time.Hour) {
			if g, w := at.In(got).Format(time.DateTime), at.In(want).Format(time.DateTime); g != w {
				t.Errorf("%s at %s: %s, in %s it is %s", posix, at, g, name, w)
				break
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tz := range []string{"", "CST", "8", "Atlantis/Poseidonis", "CST-8\n", "CST-8\nX", "C-8", "CET-1CEST,M3.5.0", "CST-", "CST-99999999999", "<+08", "\x00"} {
		if zone, err := parse(tz); err == nil {
			t.Errorf("%q is taken: now it is %s there", tz, time.Now().In(zone))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tz := range []string{"CST-8", "CET-1CEST,M3.5.0,M10.5.0/3", "<+0330>-3:30", "EST5EDT,J60,300/2:30:15"} {
		f.Add(tz, int64(0))
	}
	f.Fuzz(func(t *testing.T, tz string, sec int64) {
		zone, err := parse(tz)
		if err != nil {
			return
		}
		at := time.Unix(sec%1e11, 0)
		if !at.In(zone).Equal(at) {
			t.Fatalf("%q: another moment", tz)
		}
	})
}

func TestZone(t *testing.T) {
	t.Parallel()
	shanghai := compile("CST-8")
	for _, c := range []struct {
		name  string
		tz    string // "-": not set
		files map[string]string
		hours int // ahead of UTC
		bad   bool
	}{
		{"nothing says", "-", nil, 0, false},
		{"UTC on purpose", "", map[string]string{"/etc/localtime": string(shanghai)}, 0, false},
		{"POSIX in TZ", "CST-8", nil, 8, false},
		{"POSIX in TZ, with a colon", ":CST-8", nil, 8, false},
		{"a name in TZ", "Asia/Tokyo", nil, 9, false},
		{"a file in TZ", "/zones/x", map[string]string{"/zones/x": string(shanghai)}, 8, false},
		{"a file in TZ that is missing", ":/zones/x", nil, 0, true},
		{"TZ goes before files", "JST-9", map[string]string{"/etc/localtime": string(shanghai), "/etc/TZ": "CST-8"}, 9, false},
		{"nonsense in TZ", "Nowhere", map[string]string{"/etc/localtime": string(shanghai)}, 0, true},
		{"localtime", "-", map[string]string{"/etc/localtime": string(shanghai)}, 8, false},
		{"etc TZ", "-", map[string]string{"/etc/TZ": "CST-8\n"}, 8, false},
		{"a name in etc TZ", "-", map[string]string{"/etc/TZ": "Asia/Tokyo"}, 9, false},
		{"localtime goes before etc TZ", "-", map[string]string{"/etc/localtime": string(shanghai), "/etc/TZ": "JST-9"}, 8, false},
		{"localtime is damaged", "-", map[string]string{"/etc/localtime": "garbage"}, 0, true},
		{"localtime is damaged, etc TZ is not", "-", map[string]string{"/etc/localtime": "garbage", "/etc/TZ": "JST-9"}, 9, false},
		{"nonsense in etc TZ", "-", map[string]string{"/etc/TZ": "nonsense\n"}, 0, true},
	} {
		d := Device{
			LookupEnv: func(string) (string, bool) { return c.tz, c.tz != "-" },
			ReadFile: func(name string) ([]byte, error) {
				if text, ok := c.files[name]; ok {
					return []byte(text), nil
				}
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			},
			Load: time.LoadLocation,
		}
		zone, err := d.Zone()
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, offset := time.Date(2026, 1, 1, 0, 0, 0, 0, zone).Zone(); offset != c.hours*3600 {
			t.Errorf("%s: %d seconds ahead of UTC, want %d hours", c.name, offset, c.hours)
		}
	}
}
