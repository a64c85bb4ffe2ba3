package manpage

import (
	"fmt"
	"os"
	"strings"
)

// Chapter is a part of a Markdown file that a generator writes: what stands
// between the lines "<!-- begin NAME -->" and "<!-- end NAME -->".
type Chapter struct {
	File, Name string
}

func (c Chapter) cut() (before, text, after string, err error) {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return "", "", "", err
	}
	begin, end := "<!-- begin "+c.Name+" -->\n", "<!-- end "+c.Name+" -->\n"
	before, rest, ok := strings.Cut(string(raw), begin)
	text, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("%s: no chapter %s", c.File, c.Name)
	}
	return before + begin, text, end + after, nil
}

// Read returns the chapter as it is.
func (c Chapter) Read() (string, error) {
	_, text, _, err := c.cut()
	return text, err
}

// Write puts text in its place.
func (c Chapter) Write(text string) error {
	before, _, after, err := c.cut()
	if err != nil {
		return err
	}
	return os.WriteFile(c.File, []byte(before+text+after), 0o644)
}
