package manpage

import (
	"os"
	"slices"
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
