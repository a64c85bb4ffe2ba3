package page

import (
	"fmt"
	"strconv"
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"tandem/agent/device"
	"tandem/agent/device/doctor"
	"tandem/backup"
	"tandem/internal/text"
	"tandem/ota/hawkbit"
	"tandem/versioning"
)

// sheet is a view as HTML. All text and all values of attributes are escaped by the library
// that makes the elements; what comes from elsewhere is made a line of its own before.
type sheet struct {
	*view
	texts map[string]string
}

// say is a text by its name, filled in.
func (s *sheet) say(name string, args ...any) string {
	if len(args) == 0 {
		return s.texts[name]
	}
	for i, a := range args {
		args[i] = lined(a)
	}
	return fmt.Sprintf(s.texts[name], args...)
}

func (s *sheet) t(name string, args ...any) g.Node { return g.Text(s.say(name, args...)) }

func lined(v any) string { return text.Line(fmt.Sprint(v)) }

// words are outside text.
func words(v any) g.Node { return g.Text(lined(v)) }

func when(t time.Time) g.Node { return g.Text(text.Time(t)) }

var space = g.Text(" ")

// list has what each makes of the members, with commas between.
func list[T any](members []T, each func(T) g.Node) g.Group {
	var all g.Group
	for i, m := range members {
		if i > 0 {
			all = append(all, g.Text(", "))
		}
		all = append(all, each(m))
	}
	return all
}

// paragraph has outside text, after its attributes; nil where there is none.
func paragraph(what string, attributes ...g.Node) g.Node {
	if what == "" {
		return nil
	}
	return h.P(g.Group(attributes), words(what))
}

// broken is outside text on a line of its own, after what introduces it; nil where there is none.
func broken(what string, before ...g.Node) g.Node {
	if what == "" {
		return nil
	}
	return g.Group{h.Br(), g.Group(before), words(what)}
}

// after is outside text behind a colon; nil where there is none.
func after(what string) g.Node {
	if what == "" {
		return nil
	}
	return g.Group{g.Text(": "), words(what)}
}

const (
	viewport = "width=device-width, initial-scale=1"
	schemes  = "light dark"
)

func (s *sheet) document(body ...g.Node) g.Node {
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content(viewport)),
			h.Meta(h.Name("color-scheme"), h.Content(schemes)),
			h.TitleEl(words(s.Device), g.Text(" · Tandem")),
			h.Link(h.Rel("icon"), h.Href("data:,")),
			h.Link(h.Rel("stylesheet"), h.Href("/page.css")),
		),
		h.Body(body...)))
}

func (s *sheet) problem() g.Node { return paragraph(s.Problem, h.Class("bad"), h.Role("alert")) }

func (s *sheet) login() g.Node {
	return s.document(h.Main(h.Class("narrow"),
		h.H1(words(s.Device)),
		s.problem(),
		h.Form(h.Method("post"), h.Action("/login"),
			h.Label(h.For("password"), s.t("password")),
			h.Input(h.ID("password"), h.Name("password"), h.Type("password"), h.AutoComplete("current-password"), h.Required(), h.AutoFocus()),
			h.Button(s.t("login")))))
}

func (s *sheet) failed() g.Node {
	return s.document(h.Main(h.Class("narrow"),
		h.H1(words(s.Device)),
		s.problem(),
		h.P(h.A(h.Href("/"), s.t("back")))))
}

func (s *sheet) page() g.Node {
	return s.document(
		h.Data("lost", s.say("lost")), h.Data("cut", s.say("cut")),
		h.A(h.Class("skip"), h.Href("#sides"), s.t("skip")),
		s.header(),
		h.Main(
			h.P(h.ID("lost"), h.Class("bad"), h.Role("status")),
			h.Div(h.ID("state"), s.problem(), s.state()),
			h.Section(h.Aria("labelledby", "now-title"), heading("now-title", s.t("now")), s.now()),
			s.toDo(),
			h.Div(h.ID("kept"), s.diagnosis(), s.putAside(), s.history()),
		),
		h.Script(h.Src("/page.js")))
}

// heading begins a section, and can be gone to.
func heading(id string, title g.Node) g.Node { return h.H2(h.ID(id), h.TabIndex("-1"), title) }

func (s *sheet) header() g.Node {
	role := "role_look"
	if s.Session.Full {
		role = "role_full"
	}
	return h.Header(
		h.H1(words(s.Device)),
		h.Form(h.Method("post"), h.Action("/logout"), s.csrf(),
			h.Span(s.t(role)), space, h.Button(h.ID("logout"), s.t("logout"))))
}

func (s *sheet) csrf() g.Node {
	return h.Input(h.Type("hidden"), h.Name("csrf"), h.Value(s.Session.CSRF))
}

// order is a form with the button of an order, after its fields.
func (s *sheet) order(action string, fields ...g.Node) g.Node {
	return h.Form(h.Method("post"), h.Action("/do/"+action), s.csrf(), g.Group(fields), h.Button(h.ID("do-"+action), s.t(action)))
}

// state is what both sides are, and what is known of where releases come from.
func (s *sheet) state() g.Node {
	return h.Section(h.Aria("labelledby", "sides"),
		heading("sides", s.t("sides")),
		s.step(),
		h.Div(h.Class("pair"), g.Map(s.Sides, s.side)),
		s.status())
}

func (s *sheet) step() g.Node {
	switch {
	case s.Status == nil:
		return nil
	case s.Status.InStep:
		return h.P(h.Class("good"), h.ID("step"), s.t("in_step"))
	}
	return h.P(h.Class("bad"), h.ID("step"), s.t("not_in_step"))
}

func (s *sheet) side(side side) g.Node {
	version := s.t("none")
	if !side.Version.IsZero() {
		version = words(side.Version)
	}
	row := func(name string, what any) g.Node { return g.Group{h.Dt(s.t(name)), h.Dd(words(what))} }
	rows := g.Group{row("state", side.State), row("revision", side.Revision), row("files", side.Files)}
	if !side.Previous.IsZero() {
		rows = append(rows, row("previous", side.Previous))
	}
	rows = append(rows, row("path", side.Path))
	if side.Detail != "" {
		rows = append(rows, row("detail", side.Detail))
	}
	return h.Div(h.Class("card"), h.H3(words(side.Name)), h.P(h.Class("version"), version), h.Dl(rows))
}

func (s *sheet) status() g.Node {
	if s.Status == nil {
		return nil
	}
	all := g.Group{s.pending(s.Status.Pending)}
	if len(s.Status.Revoked) > 0 {
		all = append(all, h.P(s.t("revoked"), space, list(s.Status.Revoked, func(v versioning.Version) g.Node { return words(v) })))
	}
	for _, f := range s.Status.Firmware {
		all = append(all, h.P(s.t("firmware", f.Name, f.Version, f.State), after(f.Detail)))
	}
	return append(all, s.source(s.Status.Source))
}

func (s *sheet) pending(p *backup.Pending) g.Node {
	if p == nil {
		return nil
	}
	all := g.Group{s.t("pending", p.Version, p.Starts)}
	if a := s.Now.Agent; a != nil {
		if !a.PendingSince.IsZero() {
			all = append(all, space, s.t("pending_since", text.Time(a.PendingSince)))
		}
		all = append(all, space, s.t("pending_until", a.Boots))
		if !a.NextHealth.IsZero() {
			all = append(all, space, s.t("next_health", text.Time(a.NextHealth)))
		}
	}
	return h.P(h.Class("warn"), h.ID("pending"), all)
}

func (s *sheet) source(from *device.SourceStatus) g.Node {
	if from == nil {
		return h.P(s.t("no_source"))
	}
	said := g.Group{s.t("source", from.Type, from.URL)}
	if from.Controller != "" {
		said = append(said, space, s.t("controller", from.Controller))
	}
	return g.Group{h.P(h.ID("source"), said), s.wish(from.Action), s.waiting(from.Waiting)}
}

// wish is what a server wants.
func (s *sheet) wish(a *device.ActionStatus) g.Node {
	if a == nil {
		return nil
	}
	said := g.Group{s.t("wish", a.Number, a.Step, a.Update), after(a.Hold)}
	if a.Success != nil && a.Step == hawkbit.Ending {
		said = append(said, space, s.t("untold"))
	}
	for _, d := range a.Details {
		said = append(said, broken(d))
	}
	return h.P(h.ID("action"), said)
}

// waiting asks whoever may say so whether an update is to be.
func (s *sheet) waiting(w *hawkbit.Waiting) g.Node {
	if w == nil {
		return nil
	}
	said := g.Group{s.t("waiting", w.Number), space, list(w.Brings, func(b string) g.Node { return words(b) })}
	if w.Denied {
		said = append(said, space, s.t("denied"))
	}
	var answer g.Group
	if s.Session.Full {
		answer = g.Group{s.order("confirm-update"), s.order("deny-update",
			h.Label(h.For("reason"), s.t("reason")), space, h.Input(h.ID("reason"), h.Name("reason"), h.MaxLength("200")), space)}
	}
	return h.Div(h.Class("warn"), h.ID("waiting"), h.P(said), answer)
}

// now is what goes on.
func (s *sheet) now() g.Node {
	var busy g.Node
	if s.Now.Busy {
		busy = g.Attr("data-busy")
	}
	doing, progress := s.doing(s.Now.Agent)
	all := g.Group{h.Div(h.Role("status"), doing), progress}
	if s.Now.Busy && s.Session.Full {
		all = append(all, s.order("cancel"))
	}
	if len(s.Now.Tasks) > 0 {
		all = append(all, h.H3(s.t("tasks")), h.Ul(h.Class("tasks"), g.Map(s.Now.Tasks, s.task)))
	}
	return h.Div(h.ID("now"), h.Data("stamp", lined(s.Now.Stamp)), busy, all,
		h.H3(h.ID("log-title"), s.t("log")),
		h.Pre(h.ID("log"), h.TabIndex("0"), h.Role("log"), h.Aria("labelledby", "log-title"), g.Map(s.Now.Log, func(l LogLine) g.Node {
			return h.Span(h.ID("log-"+strconv.Itoa(l.N)), when(l.Time), space, words(l.Level), after(l.Text), g.Text("\n"))
		})))
}

// doing is what the agent does, and how far it has come with it.
func (s *sheet) doing(a *device.AgentStatus) (doing, progress g.Group) {
	if a == nil {
		return g.Group{h.P(h.Class("bad"), s.t("no_agent"))}, nil
	}
	doing = g.Group{h.P(h.ID("doing"), words(a.Doing)), paragraph(a.Waiting), paragraph(a.Barred, h.Class("warn"))}
	if a.PollError != "" {
		doing = append(doing, h.P(h.Class("warn"), s.t("poll_error"), space, words(a.PollError)))
	}
	for _, r := range a.Releases {
		said := g.Group{words(r.App), space, words(r.Version), after(string(r.Step))}
		if r.Waiting != "" {
			said = append(said, g.Text(", "), words(r.Waiting))
		}
		doing = append(doing, h.P(said))
	}
	if p := a.Progress; p != nil {
		n := strconv.FormatInt(percent(p), 10)
		size := text.Size(p.Done)
		if p.Total != 0 {
			size += " / " + text.Size(p.Total)
		}
		progress = append(progress, h.P(h.Label(h.For("bar"), words(p.What)), space,
			h.Progress(h.ID("bar"), h.Max("100"), h.Value(n), g.Text(n+" %")), space, g.Text(size)))
	}
	if !a.NextPoll.IsZero() {
		progress = append(progress, h.P(s.t("next_poll", text.Time(a.NextPoll))))
	}
	return doing, progress
}

func percent(p *device.Progress) int64 {
	if p.Total <= 0 {
		return 0
	}
	return min(100, p.Done*100/p.Total)
}

func (s *sheet) task(t Task) g.Node {
	class, came := "good", g.Group{s.t("done")}
	switch {
	case t.Ended.IsZero():
		class, came = "warn", g.Group{s.t("running")}
	case t.Failure.Error != "":
		came = g.Group{words(t.Failure.Error), broken(t.Failure.Hint)}
	default:
		came = append(came, after(t.Summary()))
	}
	if !t.Ended.IsZero() && t.Failure.Exit != 0 {
		class = "bad"
	}
	var said g.Node
	if len(t.Said) > 0 {
		said = h.Details(h.Summary(s.t("said")), h.Pre(h.TabIndex("0"), g.Map(t.Said, func(l string) g.Node { return g.Group{words(l), g.Text("\n")} })))
	}
	return h.Li(h.ID("task-"+strconv.Itoa(t.N)), h.Class(class), h.Data("action", t.Action),
		h.B(s.t(t.Action)), space, h.Small(when(t.Started), g.Text(", "), words(t.By)), h.Br(), came, said)
}

// actions are the buttons of every page.
var actions = []string{"check", "update", "confirm", "rollback", "verify", "repair"}

// toDo is what may be ordered; nil for who may only look.
func (s *sheet) toDo() g.Node {
	if !s.Session.Full {
		return nil
	}
	choice := func(name string) g.Node {
		return h.Label(h.Input(h.Type("checkbox"), h.Name(name), h.Value("true")), space, s.t(name))
	}
	return h.Section(h.Aria("labelledby", "do"),
		heading("do", s.t("do")),
		h.Div(h.Class("row"), g.Map(actions, func(a string) g.Node { return s.order(a) })),
		h.Form(h.ID("upload"), h.Method("post"), h.Action("/do/install"), h.EncType("multipart/form-data"), s.csrf(),
			h.FieldSet(h.Legend(s.t("install_title")),
				choice("reinstall"), choice("allow_downgrade"), choice("allow_revoked"),
				h.Label(h.For("bundle"), s.t("bundle")), space, h.Input(h.ID("bundle"), h.Type("file"), h.Name("bundle"), h.Required()),
				h.Button(h.ID("do-install"), s.t("install")),
				h.Progress(h.ID("sent"), h.Max("100"), h.Value("0"), h.Aria("label", s.say("sent")), g.Attr("hidden")),
				h.P(h.ID("uploaded"), h.Role("status")))))
}

func (s *sheet) diagnosis() g.Node {
	found := h.P(s.t("doctor_none"))
	if s.Doctor != nil {
		found = h.Ul(h.Class("findings"), g.Map(s.Doctor.Findings, func(f doctor.Finding) g.Node {
			class := "good"
			switch f.Kind {
			case doctor.Wrong:
				class = "bad"
			case doctor.Note:
				class = "warn"
			}
			return h.Li(h.Class(class), h.B(words(f.Kind)), space, words(f.About), after(f.Found),
				broken(f.Consequence, s.t("so"), space), broken(f.Advice, s.t("advice"), space))
		}))
	}
	return h.Section(h.Aria("labelledby", "doctor"), heading("doctor", s.t("doctor_title")), s.order("doctor"), found)
}

func (s *sheet) putAside() g.Node {
	there := h.P(s.t("aside_none"))
	if len(s.Aside) > 0 {
		there = h.Ul(h.Class("aside"), g.Map(s.Aside, func(a backup.Aside) g.Node {
			var recall g.Node
			if s.Session.Full {
				recall = h.Form(h.Method("post"), h.Action("/do/recall"), s.csrf(), h.Input(h.Type("hidden"), h.Name("path"), h.Value(a.Path.String())),
					h.Label(h.Input(h.Type("checkbox"), h.Name("bump"), h.Value("true")), space, s.t("bump")), space,
					h.Button(h.Aria("label", s.say("recall_of", a.Path)), s.t("recall")))
			}
			return h.Li(h.ID(fmt.Sprintf("aside-%s-%s", a.Side, a.File)), h.Span(words(a.Path)), space,
				h.Small(words(a.Side), g.Text(", "+text.Size(a.Size)+", "), words(a.File)), recall)
		}))
	}
	return h.Section(h.Aria("labelledby", "aside"), heading("aside", s.t("aside")), there)
}

func (s *sheet) history() g.Node {
	there := h.P(s.t("history_none"))
	if len(s.Events) > 0 {
		there = h.Ol(h.Class("events"), g.Map(s.Events, s.event))
	}
	option := func(chosen, value string, shown g.Node) g.Node {
		var selected g.Node
		if value != "" && value == chosen {
			selected = h.Selected()
		}
		return h.Option(h.Value(value), selected, shown)
	}
	commands := g.Group{option("", "", s.t("all"))}
	for _, c := range s.Choices {
		commands = append(commands, option(s.Filter.Command, c, words(c)))
	}
	results := g.Group{option("", "", s.t("all")), option(s.Filter.Result, "done", s.t("result_done")), option(s.Filter.Result, "failed", s.t("result_failed"))}
	return h.Section(h.Aria("labelledby", "history"),
		heading("history", s.t("history")),
		h.Form(h.Method("get"), h.Action("/#history"), h.Class("row"),
			h.Label(s.t("command"), space, h.Select(h.Name("command"), commands)),
			h.Label(s.t("result"), space, h.Select(h.Name("result"), results)),
			h.Label(s.t("words"), space, h.Input(h.Name("words"), h.Value(s.Filter.Words))),
			h.Button(h.ID("filter"), s.t("filter"))),
		there)
}

func (s *sheet) event(e device.Event) g.Node {
	var class, by g.Node
	if e.Error != "" {
		class = h.Class("bad")
	}
	what := g.Group{h.B(words(e.Command)), space}
	if e.Action != "" {
		what = append(what, words(e.Action), space)
	}
	if !e.From.IsZero() {
		what = append(what, words(e.From), g.Text(" → "))
	}
	if !e.Version.IsZero() {
		what = append(what, words(e.Version))
	}
	if e.By != "" {
		by = g.Group{h.Br(), h.Small(s.t("by", e.By))}
	}
	return h.Li(h.ID("event-"+e.ID), class, h.Time(when(e.Time)), space, what, broken(e.Reason), broken(e.Error), by)
}
