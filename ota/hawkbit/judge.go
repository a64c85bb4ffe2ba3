package hawkbit

import (
	"fmt"

	"tandem/packaging/release"
	"tandem/versioning"
)

// Unit is what the device knows of one thing that it runs: the application, or a
// firmware.
type Unit struct {
	Kind      release.Kind
	Name      string
	Installed versioning.Version // zero: nothing
	// Pending is the version that waits to be confirmed healthy; zero: none.
	Pending versioning.Version
	// Begun is the version that a handler has begun to write, or has written for
	// after a restart; zero: none.
	Begun versioning.Version
	// Broken says why it is not known what is installed; "": it is.
	Broken string
	// Failed says of versions why they are not to be tried again, such as those
	// that are revoked.
	Failed map[string]string
}

// Facts is what the device knows of itself.
type Facts struct {
	Units []Unit
	// Installing is the name of the unit whose installation has begun: from here
	// it cannot be called off. "" is none.
	Installing string
	// Attributes tell the server of the device.
	Attributes map[string]string
}

func (f *Facts) unit(kind release.Kind, name string) *Unit {
	for i := range f.Units {
		if u := &f.Units[i]; u.Kind == kind && u.Name == name {
			return u
		}
	}
	return nil
}

// app is the unit of the application; nil if there is none.
func (f *Facts) app() *Unit {
	for i := range f.Units {
		if f.Units[i].Kind == release.App {
			return &f.Units[i]
		}
	}
	return nil
}

// verdict is what became of a part.
type verdict int

const (
	todo verdict = iota
	waits
	done
	failed
)

// judgePart reads off the device what became of a part, and words it.
func judgePart(p *Part, f *Facts) (verdict, string) {
	name := fmt.Sprintf("%s %s", p.App, p.Version)
	if p.App == "" {
		name = p.Artifact
	}
	if p.Failed != "" {
		return failed, fmt.Sprintf("%s: %s", name, p.Failed)
	}
	u := f.unit(p.Kind, p.App)
	if u == nil {
		return failed, fmt.Sprintf("%s: this device does not run it", name)
	}
	reason, wasFailed := u.Failed[p.Version.String()]
	switch {
	case u.Broken != "":
		return failed, fmt.Sprintf("%s: %s", name, u.Broken)
	case !u.Begun.IsZero() && u.Begun.Compare(p.Version) == 0:
		return waits, fmt.Sprintf("%s: its handler has it", name)
	case !u.Pending.IsZero() && u.Pending.Compare(p.Version) == 0 && u.Installed.Compare(p.Version) == 0:
		return waits, fmt.Sprintf("%s: installed, waits to be confirmed", name)
	case wasFailed:
		return failed, fmt.Sprintf("%s: %s", name, reason)
	case u.Installed.Compare(p.Version) == 0:
		return done, fmt.Sprintf("%s: installed", name)
	case u.Installed.Compare(p.Version) > 0:
		return failed, fmt.Sprintf("%s: older than %s, which is installed", name, u.Installed)
	}
	return todo, fmt.Sprintf("%s: not installed yet", name)
}

// judgement is what became of an action.
type judgement struct {
	outcome *Outcome // nil: it is not over
	todo    []int    // parts that are to be installed
	begun   bool     // something of it runs and waits to be confirmed
}

// judge reads off the device what became of an action. It is over when each part
// is done or has failed; a part that failed keeps no other one waiting. It is a
// success if none failed.
func judge(a *Action, f *Facts) judgement {
	var j judgement
	o := &Outcome{Success: true}
	over := true
	for i := range a.Parts {
		p := &a.Parts[i]
		v, text := judgePart(p, f)
		o.Details = append(o.Details, text)
		switch v {
		case todo:
			over = false
			j.todo = append(j.todo, i)
		case waits:
			over, j.begun = false, true
		case failed:
			o.Success = false
			if o.Code == 0 {
				o.Code = max(p.Code, 1)
			}
		}
	}
	if len(a.Parts) == 0 {
		o = &Outcome{Success: false, Code: 1, Details: []string{"the action brings no artifact: nothing was done"}}
	}
	if over {
		j.outcome = o
	}
	return j
}

// Hold says why nothing of an action is to be installed yet; "" if it may.
func (a *Action) Hold() string {
	switch {
	case a.Step != Open:
		return ""
	case a.Window == "unavailable":
		return "the server's maintenance window is not open"
	case a.Update == Skip:
		return "the server wants it downloaded, not installed"
	}
	return ""
}
