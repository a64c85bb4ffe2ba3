package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"tandem/packaging/signing"
)

// At a terminal a passphrase is asked for three times, and that of one key is
// tried for the next before anything is asked.
func TestPassphrasePrompt(t *testing.T) {
	var asked []string
	p := &program{
		lookup: func(string) (string, bool) { return "", false },
		prompt: func(_ context.Context, question string) ([]byte, error) {
			asked = append(asked, question)
			return fmt.Appendf(nil, "answer %d", len(asked)), nil
		},
	}
	ask := p.passphrase(t.Context(), "")
	for _, c := range []struct {
		key     string
		attempt int
		want    string
	}{
		{"a", 0, "answer 1"}, {"a", 1, "answer 2"}, {"b", 0, "answer 2"}, {"b", 1, "answer 3"}, {"b", 2, "answer 4"},
	} {
		if got, err := ask(c.key, c.attempt); err != nil || string(got) != c.want {
			t.Errorf("%s, attempt %d: %q, %v; want %q", c.key, c.attempt, got, err, c.want)
		}
	}
	if _, err := ask("b", 3); !errors.Is(err, signing.ErrPassphrase) || strings.Contains(err.Error(), "answer") {
		t.Errorf("after three tries: error %v", err)
	}
	if got := strings.Join(asked, ""); got != "passphrase of a: passphrase of a: passphrase of b: passphrase of b: " {
		t.Errorf("asked %q", got)
	}
}

// A new passphrase is typed twice, and must be the same.
func TestNewPassphrase(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		ok      bool
	}{
		"the same":  {[]string{"a", "a"}, true},
		"different": {[]string{"a", "b"}, false},
		"empty":     {[]string{"", ""}, false},
	} {
		n := 0
		p := &program{
			lookup: func(string) (string, bool) { return "", false },
			prompt: func(context.Context, string) ([]byte, error) { n++; return []byte(c.answers[n-1]), nil },
		}
		if secret, err := p.newPassphrase(t.Context(), ""); (err == nil) != c.ok || c.ok && string(secret) != "a" {
			t.Errorf("%s: %q, %v", name, secret, err)
		}
	}
}
