package hawkbit

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// assignAll assigns sets to targets, pair by pair.
func (m *management) assignAll(pairs []pair) error {
	done, already := []object{}, 0
	for _, p := range pairs {
		if m.r.URL.Query().Get("offline") == "true" {
			if a := m.offline(p.target, p.set, "Assignment initiated by user 'admin'"); a != nil {
				done = append(done, object{"id": a.id})
			} else {
				already++
			}
			continue
		}
		a, err := m.assign(p.target, p.set, p.as, "Assignment initiated by user 'admin'")
		if err != nil {
			return err
		}
		if a == nil {
			already++
			continue
		}
		done = append(done, object{"id": a.id})
	}
	return m.say(http.StatusOK, object{
		"assigned": len(done), "alreadyAssigned": already, "total": len(pairs), "assignedActions": done,
	})
}

type pair struct {
	target *target
	set    *set
	as     assignment
}

func (m *management) assignSets() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	var in []assignment
	if err := m.read(&in); err != nil {
		return err
	}
	var pairs []pair
	for _, as := range in {
		ds := m.sets[as.ID]
		if ds == nil {
			return notFound("DistributionSet", as.ID)
		}
		pairs = append(pairs, pair{t, ds, as})
	}
	return m.assignAll(pairs)
}

func (m *management) assignTargets() error {
	ds, err := m.oneSet()
	if err != nil {
		return err
	}
	var in []struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}
	if err := m.read(&in); err != nil {
		return err
	}
	var pairs []pair
	for _, x := range in {
		if t := m.tenant(defaultTenant).targets[x.ID]; t != nil {
			pairs = append(pairs, pair{t, ds, assignment{Type: x.Type}})
		}
	}
	return m.assignAll(pairs)
}

func (m *management) oneAction() (*action, error) {
	t, err := m.oneTarget()
	if err != nil {
		return nil, err
	}
	id, err := m.number("action")
	if err != nil {
		return nil, err
	}
	if a := m.actions[id]; a != nil && a.target == t {
		return a, nil
	}
	return nil, notFound("Action", id)
}

func (m *management) actionShown(a *action) object {
	kind := "update"
	if a.status == stCanceling || a.status == stCanceled {
		kind = "cancel"
	}
	o := object{"id": a.id, "active": a.active, "status": a.status, "type": kind, "forceType": a.forceType, "weight": a.weight}
	if a.forceType == "timeforced" {
		o["forceTime"] = a.forceTime
	}
	if a.lastCode != nil {
		o["lastStatusCode"] = *a.lastCode
	}
	if w := a.window; w != nil {
		next := int64(0)
		if w.state(m.o.Now()) != windowOver {
			next = w.next(m.o.Now()).UnixMilli()
		}
		o["maintenanceWindow"] = object{"schedule": w.spec.Schedule, "duration": w.spec.Duration, "timezone": w.spec.Timezone, "nextStartAt": next}
	}
	return o
}

func (m *management) getAction() error {
	a, err := m.oneAction()
	if err != nil {
		return err
	}
	return m.say(http.StatusOK, m.actionShown(a))
}

func (m *management) putAction() error {
	a, err := m.oneAction()
	if err != nil {
		return err
	}
	var in struct {
		ForceType string `json:"forceType"`
	}
	if err := m.read(&in); err != nil {
		return err
	}
	a.forceType = in.ForceType
	a.changes++
	return m.say(http.StatusOK, m.actionShown(a))
}

func (m *management) listActions() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	all := []object{}
	for _, a := range t.actions {
		all = append(all, m.actionShown(a))
	}
	return m.paged(all)
}

// paged answers with the part of a list that is asked for, the newest first
// unless the query says otherwise.
func (m *management) paged(all []object) error {
	q := m.r.URL.Query()
	if !strings.HasSuffix(strings.ToUpper(q.Get("sort")), ":ASC") {
		slices.Reverse(all)
	}
	total := len(all)
	if offset, err := strconv.Atoi(q.Get("offset")); err == nil {
		all = all[min(offset, total):]
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		limit = 50
	}
	all = all[:min(limit, len(all))]
	return m.say(http.StatusOK, object{"content": all, "total": total, "size": len(all)})
}

func (m *management) history() error {
	a, err := m.oneAction()
	if err != nil {
		return err
	}
	all := []object{}
	for _, st := range a.history {
		o := object{"id": st.id, "type": st.kind, "messages": st.messages, "timestamp": st.at, "reportedAt": st.at}
		if st.code != nil {
			o["code"] = *st.code
		}
		all = append(all, o)
	}
	return m.paged(all)
}

// cancel asks for the end of an action, or ends one that was asked to.
func (m *management) cancel() error {
	a, err := m.oneAction()
	if err != nil {
		return err
	}
	if m.r.URL.Query().Get("force") == "true" {
		if a.status != stCanceling {
			return &failure{
				status: http.StatusMethodNotAllowed, code: "action.notForceQuitable", class: repoException + "ForceQuitActionNotAllowedException",
				message: fmt.Sprintf("%d is not canceled yet and cannot be force quit", a.id),
			}
		}
		m.log(a, stCanceled, serverSays+"A force quit has been performed.")
		a.canceled()
		return m.say(http.StatusNoContent, nil)
	}
	if !a.active || a.status == stCanceling {
		return &failure{
			status: http.StatusMethodNotAllowed, code: "action.notCancelable", class: repoException + "CancelActionNotAllowedException",
			message: "Only active actions which are in state pending are cancelable.",
		}
	}
	a.status = stCanceling
	m.log(a, stCanceling, serverSays+"manual cancelation requested")
	return m.say(http.StatusNoContent, nil)
}
