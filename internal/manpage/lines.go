package manpage

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

var (
	codeBlock = regexp.MustCompile("(?ms)^```(?:sh|sh run[^\n]*|console[^\n]*)\n(.*?)^```$")
	anyBlock  = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	word      = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`)
)

// Lines returns the calls of a program that a Markdown text shows, in blocks that
// are marked sh or console and in code within a line: the words after its name.
func Lines(text, program string) [][]string {
	var code []string
	for _, m := range codeBlock.FindAllStringSubmatch(text, -1) {
		code = append(code, strings.Split(strings.ReplaceAll(m[1], "\\\n", " "), "\n")...)
	}
	for _, m := range codeSpan.FindAllStringSubmatch(anyBlock.ReplaceAllString(text, ""), -1) {
		code = append(code, strings.ReplaceAll(m[1], "\n", " "))
	}
	var all [][]string
	for _, l := range code {
		words := word.FindAllString(strings.TrimPrefix(l, "$ "), -1)
		if len(words) > 1 && words[0] == "sudo" {
			words = words[1:]
		}
		if len(words) < 2 || words[0] != program {
			continue
		}
		var args []string
		for _, w := range words[1:] {
			w = strings.Trim(w, `[]'"`) // as a usage has what may be left out
			if w == "" || strings.ContainsAny(w[:1], "|>&;#…") || strings.HasPrefix(w, "2>") {
				break
			}
			args = append(args, strings.TrimSuffix(w, ";"))
			if strings.HasSuffix(w, ";") {
				break
			}
		}
		all = append(all, args)
	}
	return all
}

// Understands says what is wrong with a call, as Lines gives it: a command
// or an option that there is not.
func Understands(root *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] == "help" {
		args = args[1:]
	}
	if len(args) == 0 {
		return nil
	}
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if len(documented(cmd)) > 0 && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("unknown command %q for %q", rest[0], cmd.CommandPath())
	}
	for _, a := range rest {
		name, ok := strings.CutPrefix(a, "--")
		if name, _, _ = strings.Cut(name, "="); !ok || name == "" || name == "help" {
			continue
		}
		if cmd.Flag(name) == nil {
			return fmt.Errorf("%q has no option --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}
