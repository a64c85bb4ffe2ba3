// Package manpage writes the manual pages of a command line, and a chapter of
// the book about it. No program that is shipped contains it.
package manpage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Book is what the pages of a program have in common.
type Book struct {
	Section int
	Version string
	Date    time.Time
}

// Write puts a page for root, and one for each command below it, into dir.
func (b Book) Write(dir string, root *cobra.Command) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	b.walk(root, func(cmd *cobra.Command) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, b.file(cmd)), b.Page(cmd), 0o644))
	})
	return errors.Join(errs...)
}

func (b Book) walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range documented(cmd) {
		b.walk(sub, visit)
	}
}

func documented(cmd *cobra.Command) (list []*cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "completion" {
			list = append(list, sub)
		}
	}
	return list
}

// name is what man is asked for: tandem-boot.
func name(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func (b Book) file(cmd *cobra.Command) string { return fmt.Sprintf("%s.%d", name(cmd), b.Section) }

// Page returns one page.
func (b Book) Page(cmd *cobra.Command) []byte {
	p := &page{}
	fmt.Fprintf(p, ".TH %s %d %s \"Tandem %s\" \"Tandem Manual\"\n",
		strings.ToUpper(name(cmd)), b.Section, b.Date.UTC().Format(time.DateOnly), b.Version)
	p.macro("SH", "NAME")
	p.line(name(cmd) + " - " + lower(cmd.Short))
	p.macro("SH", "SYNOPSIS")
	p.synopsis(cmd)
	p.macro("SH", "DESCRIPTION")
	if cmd.Long != "" {
		p.text(cmd.Long)
	} else {
		p.text(cmd.Short + ".")
	}
	if subs := documented(cmd); len(subs) > 0 {
		p.macro("SH", "COMMANDS")
		for _, sub := range subs {
			p.macro("TP")
			p.macro("BR", name(sub), fmt.Sprintf("(%d)", b.Section))
			p.line(sub.Short + ".")
		}
	}
	p.flags("OPTIONS", cmd.NonInheritedFlags())
	p.flags("COMMON OPTIONS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.verbatim(cmd.Example)
	}
	p.seeAlso(b, cmd)
	return p.Bytes()
}

// lower makes a sentence the end of another one, unless it starts with a name.
func lower(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' || strings.HasPrefix(s, "A ") {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// page is roff text that grows.
type page struct{ bytes.Buffer }

var escapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...")

// line writes text so that roff takes nothing in it for its own.
func (p *page) line(text string) {
	text = escapes.Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	p.WriteString(text + "\n")
}

func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		p.WriteString(` "` + strings.ReplaceAll(escapes.Replace(a), `"`, `\(dq`) + `"`)
	}
	p.WriteByte('\n')
}

func (p *page) synopsis(cmd *cobra.Command) {
	p.macro("B", cmd.CommandPath())
	p.line(arguments(cmd))
}

// arguments are what is written after a command.
func arguments(cmd *cobra.Command) string {
	_, args, _ := strings.Cut(cmd.Use, " ")
	if len(documented(cmd)) > 0 {
		args = "COMMAND"
	}
	if cmd.NonInheritedFlags().HasAvailableFlags() || cmd.InheritedFlags().HasAvailableFlags() {
		args = strings.TrimSpace("[OPTIONS] " + args)
	}
	return args
}

// text writes paragraphs. Lines that are indented stay as they are.
func (p *page) text(s string) {
	for i, para := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			p.macro("PP")
		}
		if strings.HasPrefix(para, " ") {
			p.verbatim(para)
			continue
		}
		for l := range strings.SplitSeq(para, "\n") {
			p.line(strings.TrimSpace(l))
		}
	}
}

func (p *page) verbatim(s string) {
	p.macro("EX")
	for l := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		p.line(l)
	}
	p.macro("EE")
}

func (p *page) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.macro("SH", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		names, value, usage := option(f)
		p.macro("TP")
		if value == "" {
			p.macro("B", names)
		} else {
			p.macro("BI", names+" ", value)
		}
		p.line(usage)
	})
}

// option says how an option is written, with what value, and what it does.
func option(f *pflag.Flag) (names, value, usage string) {
	value, usage = pflag.UnquoteUsage(f)
	if value == f.Value.Type() { // nobody gave it a name
		value = strings.ToUpper(f.Name[strings.LastIndex(f.Name, "-")+1:])
	}
	names = "--" + f.Name
	if f.Shorthand != "" {
		names = "-" + f.Shorthand + ", " + names
	}
	if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" {
		usage += " (default: " + d + ")"
	}
	return names, value, usage
}

func (p *page) seeAlso(b Book, cmd *cobra.Command) {
	if !cmd.HasParent() {
		return
	}
	p.macro("SH", "SEE ALSO")
	p.macro("BR", name(cmd.Parent()), fmt.Sprintf("(%d)", b.Section))
}
