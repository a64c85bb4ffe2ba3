package manpage

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "prog", Short: "Do things", Long: "prog does things.\n\nIt does \\them well.", Run: run}
	root.PersistentFlags().String("config", "/etc/prog", "configuration `FILE`")
	sub := &cobra.Command{
		Use: "copy FROM", Short: "Copy a thing", Long: "Copies:\n\n  one-by-one\n\n.not a macro",
		Example: "  prog copy x\n  'prog' copy y", Run: run,
	}
	sub.Flags().BoolP("all", "a", false, "all of them")
	sub.Flags().StringArray("new-name", nil, "names")
	sub.Flags().Bool("secret", false, "not told")
	_ = sub.Flags().MarkHidden("secret")
	root.AddCommand(sub, &cobra.Command{Use: "hidden", Hidden: true, Run: run})
	return root
}

var book = Book{Section: 8, Version: "1.2.3", Date: time.Unix(1e9, 0)}

func TestPage(t *testing.T) {
	sub, _, err := tree().Find([]string{"copy"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `.TH PROG-COPY 8 2001-09-09 "Tandem 1.2.3" "Tandem Manual"
.SH "NAME"
prog\-copy \- copy a thing
.SH "SYNOPSIS"
.B "prog copy"
[OPTIONS] FROM
.SH "DESCRIPTION"
Copies:
.PP
.EX
  one\-by\-one
.EE
.PP
\&.not a macro
.SH "OPTIONS"
.TP
.B "\-a, \-\-all"
all of them
.TP
.BI "\-\-new\-name " "NAME"
names
.SH "COMMON OPTIONS"
.TP
.BI "\-\-config " "FILE"
configuration FILE (default: /etc/prog)
.SH "EXAMPLES"
.EX
  prog copy x
  'prog' copy y
.EE
.SH "SEE ALSO"
.BR "prog" "(8)"
`
	if diff := cmp.Diff(want, string(book.Page(sub))); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

// Each command that a person may use has a page; the top one lists the others.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := book.Write(dir, tree()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"prog-copy.8", "prog.8"}; !slices.Equal(names, want) {
		t.Errorf("pages %q, want %q", names, want)
	}
}

func TestMarkdown(t *testing.T) {
	const want = "## prog\n\nDo things.\n\n```text\nprog [OPTIONS] COMMAND\n```\n" +
		"\nprog does things.\n\nIt does \\them well.\n" +
		"\n| option | means |\n|---|---|\n| `--config FILE` | configuration FILE (default: /etc/prog) |\n" +
		"\n### prog copy\n\nCopy a thing.\n\n```text\nprog copy [OPTIONS] FROM\n```\n" +
		"\nCopies:\n\n```text\none-by-one\n```\n\n.not a macro\n" +
		"\n| option | means |\n|---|---|\n| `-a, --all` | all of them |\n| `--new-name NAME` | names |\n" +
		"\n```sh\nprog copy x\n'prog' copy y\n```\n"
	if diff := cmp.Diff(want, Markdown(tree())); diff != "" {
		t.Errorf("chapter (-want +got):\n%s", diff)
	}
}

// Only what stands between the marks is a generator's.
func TestChapter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	const page = "# Page\n<!-- begin prog -->\nold\n<!-- end prog -->\nthe rest\n"
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Chapter{File: file, Name: "prog"}
	if text, err := c.Read(); err != nil || text != "old\n" {
		t.Errorf("read %q, %v", text, err)
	}
	if err := c.Write("new\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "# Page\n<!-- begin prog -->\nnew\n<!-- end prog -->\nthe rest\n" {
		t.Errorf("the page is %q, %v", got, err)
	}
	if err := (Chapter{File: file, Name: "other"}).Write("new\n"); err == nil {
		t.Error("a chapter that there is not was written")
	}
}

func TestLines(t *testing.T) {
	text := "Say `prog copy\nx` or:\n\n```sh\nprog copy --all \\\n    'x y' || echo prog gone\nsudo prog\nprog away  # a remark\n```\n\n" +
		"```toml\nprog none\n```\n\n```console\n$ prog copy --none z; echo \"$?\"\nprog: printed\n```\n"
	var got []string
	for _, args := range Lines(text, "prog") {
		l := strings.Join(args, "|")
		if err := Understands(tree(), args); err != nil {
			l += ": " + err.Error()
		}
		got = append(got, l)
	}
	want := []string{"copy|--all|x y", `away: unknown command "away" for "prog"`, `copy|--none|z: "prog copy" has no option --none`, "copy|x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
