package config

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var tomlBlock = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")

// Each configuration that a page shows can be loaded.
func TestPagesShowConfigurationsThatLoad(t *testing.T) {
	l := loader(t, "0123abcd\n")
	shown := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*/*.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tomlBlock.FindAllStringSubmatch(string(text), -1) {
				shown++
				if _, err := l.Load(write(t, m[1])); err != nil {
					t.Errorf("%s: %v\n%s", file, err, m[1])
				}
			}
		}
	}
	if shown < 6 {
		t.Errorf("only %d configurations", shown)
	}
}
