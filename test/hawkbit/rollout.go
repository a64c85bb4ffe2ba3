package hawkbit

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// rollout gives a set to groups of devices, one group after another.
type rollout struct {
	id     int64
	name   string
	query  string
	set    *set
	as     assignment
	status string
	since  time.Time
	groups []*group
}

type group struct {
	id      int64
	name    string
	status  string
	enough  time.Time // when so many had finished that the next group begins
	targets []*target
	actions []*action
}

// tick does what hawkBit's scheduler does.
func (s *Server) tick() {
	now := s.o.Now()
	due := func(since time.Time) bool { return now.Sub(since) >= s.o.Delay }
	for _, f := range s.filters {
		s.assignByItself(f, due)
	}
	for _, r := range s.rollouts {
		if !due(r.since) {
			continue
		}
		switch r.status {
		case "creating":
			r.status, r.since = "ready", now
		case "starting":
			r.status, r.since = "running", now
			s.schedule(r)
			s.startGroup(r.groups[0])
		case "running":
			s.advance(r, due)
		}
	}
}

func (s *Server) assignByItself(f map[string]any, due func(time.Time) bool) {
	ds, ok := f["set"].(*set)
	if !ok {
		return
	}
	for _, t := range s.tenant(defaultTenant).order {
		if !matches(f["query"].(string), t) || t.assigned == ds || !due(f["since"].(time.Time)) {
			continue
		}
		tried := false
		for _, a := range t.actions {
			tried = tried || a.set == ds
		}
		if tried {
			continue
		}
		as := f["as"].(assignment)
		a, err := s.assign(t, ds, as, fmt.Sprintf("Auto assignment by target filter: %s", f["name"]))
		if err != nil || a == nil {
			continue
		}
	}
}

// schedule makes the actions of a rollout, which devices do not see yet.
func (s *Server) schedule(r *rollout) {
	for _, g := range r.groups {
		for _, t := range g.targets {
			a := s.newAction(t, r.set, r.as)
			a.active, a.status, a.rollout = true, stScheduled, r
			g.actions = append(g.actions, a)
		}
		g.status = "scheduled"
	}
}

func (s *Server) startGroup(g *group) {
	g.status = "running"
	for _, a := range g.actions {
		if a.status != stScheduled {
			continue
		}
		t := a.target
		a.status = stRunning
		for _, old := range t.open() {
			if old != a && old.status != stCanceling {
				old.status = stCanceling
				s.log(old, stCanceling, serverSays+"cancel obsolete action due to new update")
			}
		}
		t.assigned, t.status = a.set, "pending"
		s.begin(a, a.rollout.as.ConfirmationRequired, "Assignment initiated by rollout")
	}
}

func (s *Server) advance(r *rollout, due func(time.Time) bool) {
	over := 0
	for i, g := range r.groups {
		if g.status == "finished" {
			if over++; over == len(r.groups) {
				r.status = "finished"
			}
		}
		if g.status != "running" {
			continue
		}
		done, failed := 0, 0
		for _, a := range g.actions {
			switch a.status {
			case stFinished:
				done++
			case stError:
				failed++
			}
		}
		n := max(1, len(g.actions))
		if len(g.actions) == 0 {
			done = n
		}
		switch {
		case failed*100/n >= 80:
			g.status, r.status = "error", "paused"
			return
		case done*100/n < 50:
		case g.enough.IsZero():
			g.enough = s.o.Now()
		case due(g.enough):
			if done == n {
				g.status = "finished"
			}
			if i+1 < len(r.groups) && r.groups[i+1].status == "scheduled" {
				s.startGroup(r.groups[i+1])
				return
			}
		}
	}
}

type rolloutIn struct {
	Name              string `json:"name"`
	DistributionSetID int64  `json:"distributionSetId"`
	Query             string `json:"targetFilterQuery"`
	AmountGroups      int    `json:"amountGroups"`
	Type              string `json:"type"`
	Confirm           *bool  `json:"confirmationRequired"`
}

func (m *management) createRollout() error {
	var in rolloutIn
	if err := m.read(&in); err != nil {
		return err
	}
	ds := m.sets[in.DistributionSetID]
	if ds == nil {
		return notFound("DistributionSet", in.DistributionSetID)
	}
	r := &rollout{id: m.next("rollout"), name: in.Name, query: in.Query, set: ds, as: assignment{Type: in.Type, ConfirmationRequired: in.Confirm}, status: "creating", since: m.o.Now()}
	for i := range max(1, in.AmountGroups) {
		r.groups = append(r.groups, &group{id: m.next("group"), name: fmt.Sprintf("group-%d", i+1), status: "ready"})
	}
	var found []*target
	for _, t := range m.tenant(defaultTenant).order {
		if matches(in.Query, t) {
			found = append(found, t)
		}
	}
	each := (len(found) + len(r.groups) - 1) / len(r.groups)
	for i, t := range found {
		g := r.groups[i/each]
		g.targets = append(g.targets, t)
	}
	m.rollouts[r.id] = r
	return m.say(http.StatusOK, r.shown())
}

func (r *rollout) shown() object {
	total, done, failed, running := 0, 0, 0, 0
	for _, g := range r.groups {
		total += len(g.targets)
		for _, a := range g.actions {
			switch {
			case a.status == stFinished:
				done++
			case a.status == stError:
				failed++
			case a.active && a.status != stScheduled:
				running++
			}
		}
	}
	return object{
		"totalTargetsPerStatus": object{
			"running": running, "notstarted": total - done - failed - running, "scheduled": 0, "cancelled": 0, "finished": done, "error": failed,
		},
		"id": r.id, "name": r.name, "status": r.status, "distributionSetId": r.set.id, "targetFilterQuery": r.query,
		"totalGroups": len(r.groups), "totalTargets": total, "type": r.as.Type, "weight": 1000, "deleted": false, "dynamic": false, "forcetime": 0,
	}
}

func (m *management) oneRollout() (*rollout, error) {
	id, err := m.number("rollout")
	if err != nil {
		return nil, err
	}
	if r := m.rollouts[id]; r != nil {
		return r, nil
	}
	return nil, notFound("Rollout", id)
}

func (m *management) getRollout() error {
	r, err := m.oneRollout()
	if err != nil {
		return err
	}
	return m.say(http.StatusOK, r.shown())
}

func (m *management) rolloutGroups() error {
	r, err := m.oneRollout()
	if err != nil {
		return err
	}
	content := []object{}
	for _, g := range r.groups {
		content = append(content, object{"id": g.id, "name": g.name, "status": g.status, "totalTargets": len(g.targets)})
	}
	return m.say(http.StatusOK, page(content))
}

func (m *management) changeRollout() error {
	r, err := m.oneRollout()
	if err != nil {
		return err
	}
	switch m.r.PathValue("verb") {
	case "start":
		r.status = "starting"
	case "pause":
		r.status = "paused"
	case "resume":
		r.status = "running"
	default:
		return errNoEntity
	}
	r.since = m.o.Now()
	return m.say(http.StatusNoContent, nil)
}

// deleteRollout ends what its devices have not done yet; they are told nothing.
func (m *management) deleteRollout() error {
	r, err := m.oneRollout()
	if err != nil {
		return err
	}
	for _, g := range r.groups {
		for _, a := range g.actions {
			if a.active {
				a.canceled()
			}
		}
	}
	delete(m.rollouts, r.id)
	return m.say(http.StatusNoContent, nil)
}

// createFilter makes a target filter, to assign by itself.
func (m *management) createFilter() error {
	var in struct{ Name, Query string }
	if err := m.read(&in); err != nil {
		return err
	}
	f := map[string]any{"id": m.next("filter"), "name": in.Name, "query": in.Query}
	m.filters = append(m.filters, f)
	return m.say(http.StatusCreated, filterShown(f))
}

func filterShown(f map[string]any) object {
	o := object{
		"id": f["id"], "name": f["name"], "query": f["query"], "confirmationRequired": nil,
		"autoAssignActionType": nil, "autoAssignDistributionSet": nil, "autoAssignWeight": nil,
	}
	if ds, ok := f["set"].(*set); ok {
		as := f["as"].(assignment)
		o["autoAssignActionType"], o["autoAssignDistributionSet"], o["autoAssignWeight"] = as.Type, ds.id, 1000
	}
	return o
}

func (m *management) autoAssign() error {
	id, err := m.number("filter")
	if err != nil {
		return err
	}
	var as assignment
	if err := m.read(&as); err != nil {
		return err
	}
	for _, f := range m.filters {
		if f["id"] == id && m.sets[as.ID] != nil {
			f["set"], f["as"], f["since"] = m.sets[as.ID], as, m.o.Now()
			return m.say(http.StatusOK, filterShown(f))
		}
	}
	return notFound("TargetFilterQuery", id)
}

func (m *management) deleteFilter() error {
	id, err := m.number("filter")
	if err != nil {
		return err
	}
	for i, f := range m.filters {
		if f["id"] == id {
			m.filters = append(m.filters[:i], m.filters[i+1:]...)
			return m.say(http.StatusNoContent, nil)
		}
	}
	return notFound("TargetFilterQuery", id)
}

// invalidate calls a set back.
func (m *management) invalidate() error {
	ds, err := m.oneSet()
	if err != nil {
		return err
	}
	var in struct {
		Cancel string `json:"actionCancelationType"`
	}
	if err := m.read(&in); err != nil {
		return err
	}
	ds.invalid = true
	for _, t := range m.tenant(defaultTenant).order {
		for _, a := range t.open() {
			switch {
			case a.set != ds || strings.EqualFold(in.Cancel, "none"):
			case strings.EqualFold(in.Cancel, "force"):
				m.log(a, stCanceled, serverSays+"A force quit has been performed.")
				a.canceled()
			case a.status != stCanceling:
				a.status = stCanceling
				m.log(a, stCanceling, serverSays+"manual cancelation requested")
			}
		}
	}
	return m.say(http.StatusNoContent, nil)
}
