package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// start looks for what runs tandem at the start of the machine, and in which order.
func (x *examination) start(context.Context) {
	boot := x.starts("tandem-boot", "tandem boot")
	switch {
	case boot.name != "" && boot.idle == "":
		x.fine("boot", "%s runs tandem boot", boot.name)
	case boot.name != "":
		x.wrong("boot", fmt.Sprintf("%s is there, %s", boot.name, boot.idle), bootConsequence, "have it run at the start, before the application")
	default:
		x.wrong("boot", "nothing seems to run tandem boot at the start of the machine", bootConsequence,
			"install Tandem's package, or call it in an init script before the application starts")
	}
	agent := x.starts("tandem-agent", "tandem agent")
	switch {
	case x.Agent && (agent.name == "" || agent.idle != ""):
		x.fine("agent", "it runs")
		x.note("agent", "nothing seems to start it with the machine", "have it run at the start, after tandem boot")
	case x.Agent:
		x.fine("agent", "it runs")
	case agent.name != "" && agent.idle == "":
		x.wrong("agent", agent.name+" is there, but the agent does not answer", "edits are not backed up, and no update comes by itself", "start it, and see what its log says")
	case agent.name != "":
		x.wrong("agent", fmt.Sprintf("%s is there, %s", agent.name, agent.idle), "edits are not backed up, and no update comes by itself", "have it run at the start, after tandem boot")
	default:
		x.note("agent", "none is installed", "it backs up edits within seconds, and takes updates by itself")
	}
	if boot.idle == "" && agent.idle == "" && boot.order != "" && boot.order >= agent.order && filepath.Dir(boot.name) == filepath.Dir(agent.name) && agent.order != "" {
		x.wrong("boot", fmt.Sprintf("%s comes after %s", boot.name, agent.name),
			"the agent brings the sides in step in its place, after the application has started on what may be unfinished", "give the script of tandem boot a lower number")
	}
}

const bootConsequence = "a side that was lost is not filled again, and nothing interrupted is finished"

// starter is what runs a command when the machine starts.
type starter struct {
	name  string // of the file; "" if there is none
	idle  string // why it is not run all the same
	order string // by which its directory is run; "" if by nothing
}

// starts returns what names a service or calls a command when the machine starts. One
// that is run goes before one that is not.
func (x *examination) starts(service, command string) (found starter) {
	_, err := os.Stat(filepath.Join(x.Root, "etc/rc2.d"))
	links := err == nil // scripts in init.d are run by links
	for _, p := range []struct {
		pattern string
		ordered bool // by name
		scripts bool // must be executable
		linked  bool // is run only by a link, where there are such
	}{
		{"etc/systemd/system/*.wants/" + service + ".service", false, false, false},
		{"etc/systemd/system/*.requires/" + service + ".service", false, false, false},
		{"lib/systemd/system/*.wants/" + service + ".service", false, false, false},
		{"usr/lib/systemd/system/*.wants/" + service + ".service", false, false, false},
		{"etc/rc[S2345].d/S[0-9][0-9]*", true, true, false},
		{"etc/init.d/S[0-9][0-9]*", true, true, false},
		{"etc/init.d/*", false, true, true},
		{"etc/rc.local", false, true, false},
		{"etc/rc.d/*", false, true, false},
		{"etc/inittab", false, false, false},
		{"etc/crontab", false, false, false},
		{"etc/cron.d/*", false, false, false},
	} {
		names, err := filepath.Glob(filepath.Join(x.Root, p.pattern))
		if err != nil {
			continue // never: the patterns are well formed
		}
		for _, name := range names {
			if !strings.Contains(filepath.Base(name), service) && !mentions(name, command) {
				continue
			}
			s := starter{name: name}
			if info, err := os.Stat(name); p.scripts && (err != nil || info.Mode().Perm()&0o111 == 0) {
				s.idle = "but cannot be executed"
			} else if p.linked && links {
				s.idle = "but no link in /etc/rc2.d and the like runs it"
			}
			if p.ordered {
				s.order = filepath.Base(name)
			}
			if s.idle == "" {
				return s
			}
			if found.name == "" {
				found = s
			}
		}
	}
	return found
}

// mentions reports whether a small text file has some words in it, in a line that is
// no comment.
func mentions(name, words string) bool {
	const large = 1 << 20
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > large {
		return false
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, words) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			return true
		}
	}
	return false
}
