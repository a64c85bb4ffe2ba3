package device

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tandem/agent/firmware"
	"tandem/backup"
	"tandem/ota"
	"tandem/versioning"
)

// The documents are what commands print with --json, and what the local
// interface answers: docs/commands.md describes them.

// Failure is what went wrong, for a person and for a program.
type Failure struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Exit  int    `json:"exit"` // the exit code of the command
}

// Reconciliation is the document of what brings the sides in step.
type Reconciliation struct {
	DryRun    bool               `json:"dry_run,omitempty"`
	Action    backup.Action      `json:"action,omitempty"`
	From      backup.SideName    `json:"from,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Version   versioning.Version `json:"version"`
	Revision  int                `json:"revision"`
	Held      bool               `json:"held,omitempty"`     // the backup waits for a confirm
	Returned  bool               `json:"returned,omitempty"` // Version is the one before, which came back
	Said      bool               `json:"said,omitempty"`     // confirmed in a hook, whose caller goes by it
	Changed   []backup.SideName  `json:"changed"`
	InPlace   []backup.SideName  `json:"in_place,omitempty"`
	Files     int                `json:"files"`
	Bytes     int64              `json:"bytes"`
	Finished  []backup.Finished  `json:"finished,omitempty"`
	Problems  []backup.Problem   `json:"problems,omitempty"`
	Conflicts []backup.Path      `json:"conflicts,omitempty"`
	Lost      []backup.Path      `json:"lost,omitempty"`
	Busy      []backup.Path      `json:"busy,omitempty"`    // configuration that is being written: it keeps the capture that it had
	Left      []backup.Left      `json:"left,omitempty"`    // what should be otherwise, and could not be changed
	Aside     []backup.Left      `json:"aside,omitempty"`   // what was put aside: why says where
	Remarks   []string           `json:"remarks,omitempty"` // what a person should know
	Failure
}

// Said is the document of a confirm that was said while a hook of the version ran.
func Said(v versioning.Version) *Reconciliation {
	doc := Describe(nil)
	doc.Said, doc.Version = true, v
	return doc
}

// LeftAlone is said of sockets, FIFOs and device nodes.
const LeftAlone = "left alone: neither file, directory nor symbolic link"

// Describe makes the document of a reconciliation; res may be nil.
func Describe(res *backup.Result) *Reconciliation {
	doc := &Reconciliation{Changed: []backup.SideName{}}
	if res == nil {
		return doc
	}
	doc.Action, doc.From, doc.Reason = res.Decision.Action, res.Decision.From, res.Decision.Reason
	doc.Version, doc.Revision, doc.Held, doc.Returned = res.Version, res.Revision, res.Held, res.Returned
	doc.Changed = append(doc.Changed, res.Changed...)
	doc.Files, doc.Bytes = res.Files, res.Bytes
	doc.InPlace, doc.Finished, doc.Conflicts, doc.Lost = res.InPlace, res.Finished, res.Conflicts, res.Lost
	doc.Busy, doc.Left, doc.Aside = res.Busy, res.Left, res.Aside
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s != nil {
			doc.Problems = append(doc.Problems, s.Problems...)
		}
	}
	doc.remarks(res)
	return doc
}

// maxListed is how many files of a kind a person is told one by one: where a whole tree is
// lost the console would have no other word. The document has all.
const maxListed = 20

// remarks gathers what a person should know of a reconciliation.
func (doc *Reconciliation) remarks(res *backup.Result) {
	say := func(format string, args ...any) { doc.Remarks = append(doc.Remarks, fmt.Sprintf(format, args...)) }
	list := func(n int, what string, one func(i int)) {
		for i := range min(n, maxListed) {
			one(i)
		}
		if n > maxListed {
			say("%s: %d more", what, n-maxListed)
		}
	}
	if res.Decision.Reason != "" && res.Decision.Action != backup.Nothing {
		say("%s", res.Decision.Reason)
	}
	for _, s := range []*backup.Snapshot{res.System, res.UsrData} {
		if s == nil {
			continue
		}
		if s.Detail != "" && s.State != backup.Damaged {
			say("%s: %s", s.Side, s.Detail)
		}
		list(len(s.Problems), string(s.Side)+": damaged", func(i int) {
			pr := s.Problems[i]
			say("%s: %s: %s: %s", pr.Side, pr.Path, pr.Kind, pr.Detail)
		})
		list(len(s.Foreign), string(s.Side)+": left alone", func(i int) { say("%s: %s: %s", s.Side, s.Foreign[i], LeftAlone) })
	}
	list(len(res.Conflicts), "edits that were kept beside the newer configuration", func(i int) {
		say("%s: an edit made here was kept beside the newer configuration", res.Conflicts[i])
	})
	list(len(res.Lost), "captured configuration that was lost on both sides", func(i int) {
		say("%s: captured configuration was lost on both sides", res.Lost[i])
	})
}

// Updated is the document of install and update.
type Updated struct {
	Updated  bool               `json:"updated"`
	App      string             `json:"app,omitempty"`
	From     versioning.Version `json:"from"`
	Version  versioning.Version `json:"version"`
	Bytes    int64              `json:"bytes"`
	New      []backup.Path      `json:"new,omitempty"`
	BackedUp bool               `json:"backed_up"`
	InPlace  bool               `json:"in_place,omitempty"`
	Recalled bool               `json:"recalled,omitempty"` // From was recalled by its publisher, and Version came back
	Recall   *Recalled          `json:"recall,omitempty"`   // of the installed release, where it was there before
	Firmware []UpdatedFirmware  `json:"firmware,omitempty"` // those that something came of
	Remarks  []string           `json:"remarks,omitempty"`
	Source   *SourceStatus      `json:"source,omitempty"` // of a hawkBit server: what it wants
	Failure
}

// UpdatedFirmware is what install and update say about a firmware.
type UpdatedFirmware struct {
	Name    string             `json:"name"`
	From    versioning.Version `json:"from"`
	Version versioning.Version `json:"version"`
	State   firmware.State     `json:"state"`
	Error   string             `json:"error,omitempty"`
}

// describeUpdate describes what came of the firmwares and of the application. A
// nil Update without an error says that there is nothing newer than installed.
// Where there is nothing to describe but an error, the document is nil.
func describeUpdate(u *Update, installed versioning.Version, err error, firmwares ...firmware.Result) (*Updated, error) {
	if u != nil && u.Firmware != nil {
		firmwares = append(firmwares, *u.Firmware)
		err = nil // the result has it
	}
	docs, failed := describeFirmware(firmwares)
	all := errors.Join(err, failed)
	if all != nil && u == nil && docs == nil {
		return nil, all
	}
	doc := &Updated{}
	switch {
	case u == nil:
		doc = &Updated{From: installed, Version: installed, BackedUp: err == nil}
	case u.Already:
		doc = &Updated{App: u.Installed.App, From: u.Installed.From, Version: u.Installed.Version, BackedUp: err == nil && (u.BackUp == nil || !u.BackUp.Held)}
	case u.Firmware != nil:
		doc = &Updated{Updated: u.Firmware.State == firmware.Done, App: u.Firmware.Name, From: u.Firmware.From, Version: u.Firmware.Version}
	default:
		doc = describeInstalled(u, err)
	}
	doc.Firmware = docs
	return doc, all
}

// describeFirmware describes what came of firmwares, and gives the errors of
// those that are not installed.
func describeFirmware(results []firmware.Result) (docs []UpdatedFirmware, err error) {
	for _, r := range results {
		if r.State == firmware.None && r.Err == nil {
			continue
		}
		doc := UpdatedFirmware{Name: r.Name, From: r.From, Version: r.Version, State: r.State}
		if r.Err != nil {
			doc.Error, err = r.Err.Error(), errors.Join(err, r.Err)
		}
		docs = append(docs, doc)
	}
	return docs, err
}

// describeInstalled describes an installation of the application.
func describeInstalled(u *Update, err error) *Updated {
	i := u.Installed
	doc := &Updated{Updated: true, App: i.App, From: i.From, Version: i.Version, Bytes: i.Bytes, New: i.New, InPlace: i.InPlace, Recalled: u.Recalled}
	doc.BackedUp = err == nil && u.BackUp != nil && !u.BackUp.Held
	if (errors.Is(err, ErrUnhealthy) || errors.Is(err, ErrHook)) && u.BackUp != nil {
		doc.Updated, doc.Version = false, u.BackUp.Version
	}
	for _, n := range i.New {
		doc.Remarks = append(doc.Remarks, fmt.Sprintf("%s: the release's new default, beside a file that was edited here", n))
	}
	for _, k := range i.Kept {
		doc.Remarks = append(doc.Remarks, fmt.Sprintf("%s: was made here, and had to make way for what the release brings", k))
	}
	if u.BackUp != nil {
		for _, s := range []*backup.Snapshot{u.BackUp.System, u.BackUp.UsrData} {
			if s != nil && s.State == backup.Tagless {
				doc.Remarks = append(doc.Remarks, fmt.Sprintf("%s: %s", s.Side, s.Detail))
			}
		}
	}
	return doc
}

// Answer is the document of check.
type Answer struct {
	Available bool               `json:"available"`
	App       string             `json:"app"`
	Installed versioning.Version `json:"installed"`
	Version   versioning.Version `json:"version,omitzero"`
	Size      int64              `json:"size,omitempty"`     // of the bundle, bytes
	Form      ota.FormKind       `json:"form,omitempty"`     // in which it would come
	Download  int64              `json:"download,omitempty"` // bytes that are still to come, in that form
	Passed    []string           `json:"passed"`             // the other releases, with the reason
	Recall    *Recalled          `json:"recall,omitempty"`   // of the installed release
	Firmware  []AnswerFirmware   `json:"firmware,omitempty"`
	Source    *SourceStatus      `json:"source,omitempty"` // of a hawkBit server: what it wants
	Failure
}

// AnswerFirmware is what the source has for a firmware.
type AnswerFirmware struct {
	Name      string             `json:"name"`
	Available bool               `json:"available"`
	Installed versioning.Version `json:"installed"`
	Version   versioning.Version `json:"version,omitzero"`
	Size      int64              `json:"size,omitempty"`
	State     firmware.State     `json:"state"`             // of what was unpacked before
	Unpacked  versioning.Version `json:"unpacked,omitzero"` // its version
	Passed    []string           `json:"passed"`
	Error     string             `json:"error,omitempty"`
}

func (d *Device) describeAnswers(ans *Answers) (*Answer, error) {
	app := ans.app()
	doc := &Answer{App: d.cfg.Device.App, Installed: app.Installed, Passed: passed(app.Offered.Passed, "")}
	if b := app.Offered.Best; b != nil {
		doc.Available, doc.Version, doc.Size = true, b.Release.Version, b.Size
		doc.Form, doc.Download = b.Form.Kind, b.Form.Bytes
	}
	if app.Recalled != nil {
		doc.Recall = &app.Recalled.Recalled
	}
	for _, a := range ans.firmwares() {
		f := AnswerFirmware{
			Name: a.Name, Installed: a.Installed, State: a.Unpacked.State, Unpacked: a.Unpacked.Version,
			Passed: passed(a.Offered.Passed, a.Name),
		}
		if a.Offered.Err != nil {
			f.Error = a.Offered.Err.Error()
		} else if b := a.Offered.Best; b != nil {
			f.Available, f.Version, f.Size = true, b.Release.Version, b.Size
		}
		doc.Firmware = append(doc.Firmware, f)
	}
	return doc, errors.Join(ans.Err(), ans.Unfit())
}

// passed lists releases that are passed over; of one app, if it is named.
func passed(all []ota.Passed, app string) []string {
	texts := []string{}
	for _, p := range all {
		if app == "" || p.Offer.Release.App == app {
			texts = append(texts, p.String())
		}
	}
	return texts
}

// The commands that may run here or in the agent. Each gives its document, which
// is nil where there is nothing to tell but the error.

// RunCheck asks the source and changes nothing.
func (d *Device) RunCheck(ctx context.Context) (*Answer, error) {
	ans, err := d.Ask(ctx)
	if err != nil {
		return nil, err
	}
	d.cost(ctx, ans.app())
	doc, err := d.describeAnswers(ans)
	if d.fromHawkBit() {
		doc.Source = d.sourceStatus()
	}
	doc.Failure = d.explain(err)
	return doc, err
}

// RunUpdate is Update.
func (d *Device) RunUpdate(ctx context.Context) (*Updated, error) {
	done, err := d.Update(ctx)
	if done == nil {
		return nil, err
	}
	d.tell(ctx)
	doc, err := describeUpdate(done.App, done.Answers.app().Installed, err, done.Firmware...)
	if doc != nil {
		if d.fromHawkBit() {
			doc.Source = d.sourceStatus()
		}
		if r := done.Answers.app().Recalled; r != nil {
			doc.Recall = &r.Recalled
			if r.Stays != "" {
				doc.Remarks = append(doc.Remarks, fmt.Sprintf("%s is %s, and stays: %s", r.Version, recallReason, r.Stays))
			}
		}
		doc.Failure = d.explain(err)
	}
	return doc, err
}

// RunInstall is Install.
func (d *Device) RunInstall(ctx context.Context, open func() (io.ReadCloser, error), o backup.InstallOptions) (*Updated, error) {
	u, err := d.Install(ctx, open, o)
	doc, err := describeUpdate(u, versioning.Version{}, err)
	if doc != nil {
		doc.Failure = d.explain(err)
	}
	return doc, err
}

// RunRollback is Rollback.
func (d *Device) RunRollback(ctx context.Context, to versioning.Version) (*Reconciliation, error) {
	return d.described(d.Rollback(ctx, to))
}

// RunConfirm is Confirm.
func (d *Device) RunConfirm(ctx context.Context) (*Reconciliation, error) {
	return d.described(d.Confirm(ctx))
}

// RunRecall is Recall.
func (d *Device) RunRecall(ctx context.Context, p backup.Path, bump bool) (*Reconciliation, error) {
	return d.described(d.Recall(ctx, p, bump))
}

// RunVerify is Verify; with repair what is damaged is mended.
func (d *Device) RunVerify(ctx context.Context, repair bool) (*Reconciliation, error) {
	if repair {
		return d.described(d.Boot(ctx, "verify", backup.Options{Full: true}))
	}
	return d.described(d.Verify(ctx))
}

func (d *Device) described(res *backup.Result, err error) (*Reconciliation, error) {
	if res == nil && err != nil {
		return nil, err
	}
	doc := Describe(res)
	doc.Failure = d.explain(err)
	return doc, err
}

func (d *Device) explain(err error) Failure {
	if err == nil || d.env.Explain == nil {
		return Failure{}
	}
	return d.env.Explain(err)
}
