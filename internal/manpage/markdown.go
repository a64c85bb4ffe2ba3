package manpage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Markdown returns a chapter about root: a section for it and for each command
// below it. What they have in common is told once, at root.
func Markdown(root *cobra.Command) string {
	m := &markdown{}
	Book{}.walk(root, m.command)
	return m.String()
}

// markdown is a chapter that grows.
type markdown struct{ strings.Builder }

func (m *markdown) command(cmd *cobra.Command) {
	if !cmd.HasParent() {
		fmt.Fprintf(m, "## %s\n\n", cmd.CommandPath())
	} else {
		fmt.Fprintf(m, "\n### %s\n\n", cmd.CommandPath())
	}
	fmt.Fprintf(m, "%s.\n", cmd.Short)
	m.block("text", strings.TrimSpace(cmd.CommandPath()+" "+arguments(cmd)))
	if cmd.Long != "" {
		m.text(cmd.Long)
	}
	m.flags(cmd.NonInheritedFlags())
	if cmd.Example != "" {
		m.block("sh", undent(cmd.Example))
	}
}

// undent takes away what all lines but those that go on from another begin with.
func undent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

func (m *markdown) block(info, text string) {
	fmt.Fprintf(m, "\n```%s\n%s\n```\n", info, text)
}

// text writes paragraphs; those that are indented stay as they are.
func (m *markdown) text(s string) {
	for para := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		if strings.HasPrefix(para, " ") {
			m.block("text", undent(para))
			continue
		}
		fmt.Fprintf(m, "\n%s\n", markup.Replace(para))
	}
}

// markup is what Markdown would take for its own in plain text.
var markup = strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`)

func (m *markdown) flags(flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	m.WriteString("\n| option | means |\n|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		names, value, usage := option(f)
		fmt.Fprintf(m, "| `%s` | %s |\n", strings.TrimSpace(names+" "+value), markup.Replace(strings.ReplaceAll(usage, "|", `\|`)))
	})
}
