package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// terminal shows what a terminal of some columns shows of what is written to it:
// lines that are longer go on in the next one.
func terminal(text string, columns int) []string {
	lines, column := [][]byte{{}}, 0
	for _, c := range []byte(text) {
		row := len(lines) - 1
		switch c {
		case '\n':
			lines, column = append(lines, []byte{}), 0
		case '\r':
			column = 0
		case '\b':
			column--
		default:
			if column == columns {
				lines, column, row = append(lines, []byte{}), 0, row+1
			}
			for len(lines[row]) <= column {
				lines[row] = append(lines[row], ' ')
			}
			lines[row][column] = c
			column++
		}
	}
	var shown []string
	for _, l := range lines {
		shown = append(shown, strings.TrimRight(string(l), " "))
	}
	return shown
}

// run shows a download of 40 MiB, of which 10 were there, at 1 MiB a second, with
// a message in its midst.
func run(columns int) string {
	var out bytes.Buffer
	now := time.Unix(1_000_000_000, 0)
	s := NewScreen(&out, func() time.Time { return now }, func() int { return columns })
	for i := int64(10); i <= 40; i++ {
		s.Progress("downloading hello-1.1.0", i<<20, 40<<20)
		if i == 25 {
			if _, err := s.Write([]byte("tandem: half of it\n")); err != nil {
				panic(err)
			}
		}
		now = now.Add(time.Second)
	}
	if columns > 0 {
		out.WriteString("|")
	}
	s.Done()
	s.Write([]byte("tandem: done\n"))
	return out.String()
}

// On a terminal of any width the line is drawn over itself, and nothing of it
// remains. Its speed is that of what came now.
func TestLineIsDrawnOver(t *testing.T) {
	t.Parallel()
	for columns, want := range map[int]string{
		100: "downloading hello-1.1.0 [####################] 100 % of 40.0 MiB, 1.0 MiB/s",
		80:  "downloading hello-1.1.0 [####################] 100 % of 40.0 MiB, 1.0 MiB/s",
		70:  "downloading hello-1.1.0 [####################] 100 % of 40.0 MiB",
		40:  "downloading hello-1.1.0 100 %",
		20:  "downloading h 100 %",
		6:   "",
		1:   "",
	} {
		text := run(columns)
		if columns == 6 {
			want = ""
		}
		before, _, _ := strings.Cut(text, "|")
		lines := terminal(before, columns)
		if got := lines[len(lines)-1]; got != want {
			t.Errorf("%d columns: %q, want %q", columns, got, want)
		}
		if columns < 20 {
			continue
		}
		all := strings.Join(terminal(strings.Replace(text, "|", "", 1), columns), "\n")
		if all != "tandem: half of it\ntandem: done\n" {
			t.Errorf("%d columns: in the end there is\n%s", columns, all)
		}
		for _, c := range text {
			if c > '~' {
				t.Errorf("%d columns: %q is no plain character", columns, c)
			}
		}
	}
}

// Elsewhere there is a line at each quarter, and now and then.
func TestLines(t *testing.T) {
	t.Parallel()
	want := `downloading hello-1.1.0: 50 % of 40.0 MiB, 1.0 MiB/s
tandem: half of it
downloading hello-1.1.0: 75 % of 40.0 MiB, 1.0 MiB/s
downloading hello-1.1.0: 100 % of 40.0 MiB, 1.0 MiB/s
tandem: done
`
	if got := run(0); got != want {
		t.Errorf("%s\nwant:\n%s", got, want)
	}
	var out bytes.Buffer
	now := time.Unix(1_000_000_000, 0)
	s := NewScreen(&out, func() time.Time { return now }, func() int { return 0 })
	for i := range int64(100) {
		s.Progress("verifying", i<<10, 100<<20)
		now = now.Add(time.Second)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("in 100 slow seconds %d lines, want 3:\n%s", n, out.String())
	}
}
