// Package book holds the tests of what the project's pages say about themselves:
// their links, the messages that they quote, the targets of make that they name.
// What pages run and generate is tested beside the programs. It has no code of its own.
package book

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

// walk calls visit with each file of the project that has the suffix, by its
// path from the project's root.
func walk(t *testing.T, suffix string, visit func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && slices.Contains([]string{".git", ".cache", "bin", "dist", "testdata"}, name):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, suffix):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			visit(rel, string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pages are all pages of the project, by their paths.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	all := make(map[string]*page)
	walk(t, ".md", func(path, text string) { all[path] = parse(text) })
	if len(all) < 10 {
		t.Fatalf("only %d pages", len(all))
	}
	return all
}

// page is what is looked at in a Markdown text.
type page struct {
	prose    string // without blocks and code
	spans    []string
	blocks   []block
	headings []string
	anchors  []string
}

type block struct{ info, text string }

var span = regexp.MustCompile("`([^`]+)`")

func parse(text string) *page {
	p := &page{}
	var prose strings.Builder
	var open *block
	for l := range strings.Lines(text) {
		info, isFence := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "```")
		switch {
		case isFence && open != nil:
			p.blocks, open = append(p.blocks, *open), nil
		case isFence:
			open = &block{info: info}
		case open != nil:
			open.text += l
		default:
			prose.WriteString(l)
			if marks, title, ok := strings.Cut(l, " "); ok && marks != "" && strings.Trim(marks, "#") == "" {
				p.headings = append(p.headings, strings.TrimSpace(title))
				p.anchors = append(p.anchors, p.anchor(title))
			}
		}
	}
	for _, m := range span.FindAllStringSubmatch(prose.String(), -1) {
		p.spans = append(p.spans, strings.ReplaceAll(m[1], "\n", " "))
	}
	p.prose = span.ReplaceAllString(prose.String(), "code")
	return p
}

// anchor is what links call a heading, the way code hosting sites make it.
func (p *page) anchor(title string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(title))
	for n, again := 1, name; ; n++ {
		if !slices.Contains(p.anchors, again) {
			return again
		}
		again = name + "-" + strconv.Itoa(n)
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Each link within the project leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	all := pages(t)
	links := 0
	for path, p := range all {
		for _, m := range link.FindAllStringSubmatch(p.prose, -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue
			}
			links++
			target := path
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(path), u.Path)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil || !filepath.IsLocal(target) {
				t.Errorf("%s: %s leads nowhere", path, m[1])
			} else if u.Fragment != "" && (all[target] == nil || !slices.Contains(all[target].anchors, u.Fragment)) {
				t.Errorf("%s: %s: %s has no such heading", path, m[1], target)
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links", links)
	}
}

// The book's index leads to each of its pages.
func TestIndex(t *testing.T) {
	all := pages(t)
	index := all["docs/README.md"]
	if index == nil {
		t.Fatal("docs/README.md is missing")
	}
	for path := range all {
		if name := filepath.Base(path); filepath.Dir(path) == "docs" && name != "README.md" && !strings.Contains(index.prose, "]("+name+")") {
			t.Errorf("docs/README.md does not name %s", name)
		}
	}
	if !strings.Contains(all["README.md"].prose, "](docs/README.md)") {
		t.Error("README.md does not lead to docs/README.md")
	}
}

// What is shown with its output is run: that is done for docs/ alone.
func TestConsoleBlocksAreRun(t *testing.T) {
	for path, p := range pages(t) {
		for _, b := range p.blocks {
			if (strings.HasPrefix(b.info, "console") || strings.HasPrefix(b.info, "sh run")) && filepath.Dir(path) != "docs" {
				t.Errorf("%s: a block with output, which nobody runs", path)
			}
		}
	}
}

// The pages that are followed word for word have blocks that can be pasted: no prompt
// stands in them, and a shell can read each.
func TestBlocksCanBePasted(t *testing.T) {
	all := pages(t)
	for _, path := range []string{"README.md", "docs/quick-start.md", "docs/migration.md", "docs/operating.md"} {
		blocks := 0
		for _, b := range all[path].blocks {
			if strings.HasPrefix(b.info, "console") {
				t.Errorf("%s: a console block cannot be pasted:\n%s", path, b.text)
			}
			if b.info != "sh" && !strings.HasPrefix(b.info, "sh run") {
				continue
			}
			blocks++
			if prompt.MatchString(b.text) {
				t.Errorf("%s: a prompt:\n%s", path, b.text)
			}
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(b.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", path, err, out, b.text)
			}
		}
		if blocks == 0 {
			t.Errorf("%s: no blocks", path)
		}
	}
}

var prompt = regexp.MustCompile(`(?m)^[$#>] `)

var (
	target     = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*)\s*:`)
	makeInLine = regexp.MustCompile(`(?m)^(?:\$ )?make((?: +[A-Za-z0-9_/=.'-]+)*)`)
)

// Each target of make that a page names is one of the Makefile.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, m := range target.FindAllStringSubmatch(string(makefile), -1) {
		known[m[1]] = true
	}
	named := 0
	for path, p := range pages(t) {
		code := slices.Clone(p.spans)
		for _, b := range p.blocks {
			code = append(code, b.text)
		}
		for _, c := range code {
			for _, m := range makeInLine.FindAllStringSubmatch(c, -1) {
				for word := range strings.FieldsSeq(m[1]) {
					if strings.ContainsAny(word, "=/") || strings.HasPrefix(word, "-") {
						continue // a variable, a file or an option
					}
					named++
					if !known[word] {
						t.Errorf("%s: make %s: the Makefile has no such target", path, word)
					}
				}
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d targets are named", named)
	}
}

// literals are the texts in the source of the programs.
func literals(t *testing.T) []string {
	t.Helper()
	var all []string
	walk(t, ".go", func(path, text string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test/") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && !strings.Contains(s, "\n") { // a message has one line
					all = append(all, s)
				}
			}
			return true
		})
	})
	return all
}

// shown reports whether a run on the page printed the message. An ellipsis of the
// message stands for any text in its line.
func shown(p *page, message string) bool {
	parts := strings.Split(message, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	said := regexp.MustCompile(strings.Join(parts, ".+"))
	for _, b := range p.blocks {
		if !strings.HasPrefix(b.info, "console") {
			continue
		}
		for l := range strings.Lines(b.text) {
			if !strings.HasPrefix(l, "$ ") && !strings.HasPrefix(l, "> ") && said.MatchString(l) {
				return true
			}
		}
	}
	return false
}

// Each message that the page on troubleshooting explains is one that it shows
// being printed, or whose parts stand in the source. A part that comes from
// elsewhere, such as a wrapped error, begins after a colon.
func TestMessages(t *testing.T) {
	p := pages(t)["docs/troubleshooting.md"]
	if p == nil {
		t.Fatal("docs/troubleshooting.md is missing")
	}
	source := literals(t)
	inSource := func(part string) bool {
		return slices.ContainsFunc(source, func(s string) bool { return strings.Contains(s, part) })
	}
	messages := 0
	for _, h := range p.headings {
		message, ok := strings.CutPrefix(h, "`")
		if !ok {
			continue
		}
		messages++
		message = strings.TrimSuffix(message, "`")
		if shown(p, message) {
			continue
		}
		for part := range strings.SplitSeq(message, "…") {
			for phrase := range strings.SplitSeq(part, ": ") {
				if phrase = strings.Trim(phrase, " :"); phrase != "" && !inSource(phrase) {
					t.Errorf("%q: nothing prints %q", message, phrase)
				}
			}
		}
	}
	if messages < 30 {
		t.Errorf("only %d messages", messages)
	}
}
