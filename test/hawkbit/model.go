package hawkbit

import (
	"cmp"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

type moduleType struct{ Key, Name, Part string }

type setType struct{ Key, Name string }

type artifact struct {
	id                int64
	name              string
	content           []byte
	sha1, md5, sha256 string
	uploaded          time.Time
}

func newArtifact(id int64, name string, content []byte, now time.Time) *artifact {
	a, b, c := sha1.Sum(content), md5.Sum(content), sha256.Sum256(content)
	return &artifact{
		id: id, name: name, content: content, uploaded: now,
		sha1: hex.EncodeToString(a[:]), md5: hex.EncodeToString(b[:]), sha256: hex.EncodeToString(c[:]),
	}
}

func (a *artifact) hashes() object {
	return object{"sha1": a.sha1, "md5": a.md5, "sha256": a.sha256}
}

type metadata struct {
	Key           string `json:"key"`
	Value         string `json:"value"`
	TargetVisible bool   `json:"targetVisible"`
}

type module struct {
	id                          int64
	name, version, kind, vendor string
	locked                      bool
	artifacts                   []*artifact
	metadata                    []metadata
}

type set struct {
	id                  int64
	name, version, kind string
	modules             []*module
	locked, invalid     bool
}

func (s *set) complete() bool { return len(s.modules) > 0 }

type target struct {
	id, name, description, token string
	createdBy                    string
	attributes                   map[string]string
	requestAttributes            bool
	status                       string
	assigned, installed          *set
	installedAt                  int64
	polled                       bool
	kind                         int64
	actions                      []*action
	auto                         *autoConfirm
}

type autoConfirm struct {
	initiator, remark string
	at                int64
}

// status is one entry of an action's history.
type status struct {
	id       int64
	kind     string
	messages []any // strings, and null
	code     *int
	at       int64 // as the device says
}

type action struct {
	id        int64
	target    *target
	set       *set
	forceType string
	forceTime int64
	weight    int
	active    bool
	status    string
	window    *window
	history   []status
	lastCode  *int // of the last report
	changes   int  // of what devices are told of it
	rollout   *rollout
}

// The states of an action.
const (
	stRunning    = "running"
	stRetrieved  = "retrieved"
	stDownload   = "download"
	stDownloaded = "downloaded"
	stFinished   = "finished"
	stError      = "error"
	stCanceling  = "canceling"
	stCanceled   = "canceled"
	stWaiting    = "wait_for_confirmation"
	stScheduled  = "scheduled"
)

const serverSays = "Update Server: "

func (s *Server) log(a *action, kind string, messages ...string) {
	all := make([]any, len(messages))
	for i, m := range messages {
		all[i] = m
	}
	s.logAt(a, status{kind: kind, messages: all, at: s.millis()})
}

func (s *Server) logAt(a *action, st status) {
	st.id = s.next("status")
	a.history = append(a.history, st)
	a.changes++
}

// full reports whether an action has all the statuses that it may have.
func (a *action) full() bool { return len(a.history) >= maxStatuses }

func (a *action) quota() *failure {
	return quota(1, "ActionStatus", fmt.Sprintf("Action '%d'", a.id), maxStatuses)
}

// has reports whether an action's set carries a module.
func (a *action) has(id int64) bool {
	return slices.ContainsFunc(a.set.modules, func(m *module) bool { return m.id == id })
}

// open gives a target's active actions, those that are shown first at the
// beginning: the heavier, then the older.
func (t *target) open() []*action {
	var all []*action
	for _, a := range t.actions {
		if a.active && a.status != stScheduled {
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b *action) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.id, b.id))
	})
	return all
}

// installation gives the action that last brought what is installed.
func (t *target) installation() *action {
	for _, a := range slices.Backward(t.actions) {
		if a.status == stFinished && a.set == t.installed {
			return a
		}
	}
	return nil
}

// settle says of a target whether it has what it should have.
func (t *target) settle() {
	if t.assigned == t.installed {
		t.status = "in_sync"
	} else {
		t.status = "pending"
	}
}

// assignment is what an operator may say of one.
type assignment struct {
	ID                   int64       `json:"id"`
	Type                 string      `json:"type"`
	ForceTime            int64       `json:"forcetime"`
	Weight               int         `json:"weight"`
	ConfirmationRequired *bool       `json:"confirmationRequired"`
	Window               *windowSpec `json:"maintenanceWindow"`
}

// assign gives a set to a target. nil says that it has it already.
func (s *Server) assign(t *target, ds *set, as assignment, by string) (*action, error) {
	win, err := newWindow(as.Window, s.o.Now())
	if err != nil {
		return nil, err
	}
	if t.assigned == ds {
		return nil, nil
	}
	ds.locked = true
	for _, m := range ds.modules {
		m.locked = true
	}
	for _, old := range t.open() {
		if old.status == stCanceling {
			continue
		}
		if s.config["repository.actions.autoclose.enabled"] == true {
			old.status, old.active = stCanceled, false
			s.log(old, stCanceled, serverSays+"close obsolete action due to new update")
		} else {
			old.status = stCanceling
			s.log(old, stCanceling, serverSays+"cancel obsolete action due to new update")
		}
	}
	a := s.newAction(t, ds, as)
	a.window, a.active, a.status = win, true, stRunning
	t.assigned, t.status = ds, "pending"
	s.begin(a, as.ConfirmationRequired, by)
	return a, nil
}

func (s *Server) newAction(t *target, ds *set, as assignment) *action {
	a := &action{
		id: s.next("action"), target: t, set: ds, weight: cmp.Or(as.Weight, 1000),
		forceType: cmp.Or(as.Type, "forced"), forceTime: as.ForceTime,
	}
	t.actions = append(t.actions, a)
	s.actions[a.id] = a
	return a
}

// begin makes an action one that the device sees, once it is confirmed.
func (s *Server) begin(a *action, confirm *bool, by string) {
	if s.config["user.confirmation.flow.enabled"] != true || confirm != nil && !*confirm {
		s.log(a, stRunning, by)
		return
	}
	a.status = stWaiting
	s.log(a, stWaiting, by, "Waiting for the confirmation by the device before processing with the deployment")
	if a.target.auto != nil {
		s.confirmByItself(a)
	}
}

func (s *Server) confirmByItself(a *action) {
	auto := a.target.auto
	a.status = stRunning
	s.log(a, stRunning, fmt.Sprintf("Assignment automatically confirmed by initiator '%s'. \n\nAuto confirmation activated by system user: 'CONTROLLER_PLUG_AND_PLAY' \n\nRemark: %s", auto.initiator, auto.remark))
}

// offline notes that a set was installed by other means. It reports whether
// that was news.
func (s *Server) offline(t *target, ds *set, by string) *action {
	if t.assigned == ds || t.installed == ds {
		return nil
	}
	ds.locked = true
	a := s.newAction(t, ds, assignment{})
	a.status = stFinished
	s.log(a, stFinished, by)
	t.assigned, t.installed, t.installedAt, t.status = ds, ds, s.millis(), "in_sync"
	return a
}

// finish ends an action well.
func (s *Server) finish(a *action, at int64) {
	t := a.target
	a.active, a.status = false, stFinished
	if at >= t.installedAt {
		t.installed, t.installedAt = a.set, at
	}
	t.requestAttributes = true
	t.settle()
}

// hurt ends an action badly. The target may be assigned the same set again.
func (a *action) hurt() {
	a.active, a.status = false, stError
	a.target.assigned, a.target.status = nil, "error"
}

// canceled ends an action that was called off.
func (a *action) canceled() {
	t := a.target
	a.active, a.status = false, stCanceled
	if open := t.open(); len(open) > 0 {
		t.assigned = open[len(open)-1].set
	} else {
		t.assigned = t.installed
	}
	t.settle()
}

// forced reports whether an action is urgent now.
func (a *action) forced(now time.Time) bool {
	return a.forceType == "forced" || a.forceType == "downloadonly" || a.forceType == "timeforced" && now.UnixMilli() >= a.forceTime
}

// split cuts a message as hawkBit does.
func split(message string) []any {
	units := utf16.Encode([]rune(message))
	if len(units) <= maxMessage {
		return []any{message}
	}
	var parts []any
	for part := range slices.Chunk(units, maxMessage) {
		parts = append(parts, string(utf16.Decode(part)))
	}
	return parts
}

// tagLike finds what hawkBit takes for HTML.
var tagLike = regexp.MustCompile(`(?s)<[A-Za-z!][^>]*>`)

// unsafe reports whether hawkBit refuses a message.
func unsafe(message string) bool { return tagLike.MatchString(message) }

// matches tells of the queries that this server knows, controllerid==NAME*, whether
// they find a target.
func matches(query string, t *target) bool {
	want, ok := strings.CutPrefix(query, "controllerid==")
	if !ok {
		return false
	}
	if prefix, any := strings.CutSuffix(want, "*"); any {
		return strings.HasPrefix(t.id, prefix)
	}
	return t.id == want
}
