package hawkbit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The operator's name and password.
const (
	AdminUser     = "admin"
	AdminPassword = "admin"
)

// management is a request of an operator.
type management struct {
	*Server
	w http.ResponseWriter
	r *http.Request
}

func (s *Server) routeManagement() {
	for pattern, h := range map[string]func(*management) error{
		"GET /softwaremoduletypes":                        (*management).listTypes,
		"POST /softwaremoduletypes":                       (*management).createTypes,
		"GET /distributionsettypes":                       (*management).listSetTypes,
		"POST /distributionsettypes":                      (*management).createSetTypes,
		"POST /targettypes":                               (*management).createTargetTypes,
		"POST /softwaremodules":                           (*management).createModules,
		"POST /softwaremodules/{module}/artifacts":        (*management).upload,
		"POST /softwaremodules/{module}/metadata":         (*management).addMetadata,
		"DELETE /softwaremodules/{module}/metadata/{key}": (*management).deleteMetadata,
		"POST /distributionsets":                          (*management).createSets,
		"POST /distributionsets/{set}/invalidate":         (*management).invalidate,
		"POST /distributionsets/{set}/assignedTargets":    (*management).assignTargets,
		"POST /targets":                                   (*management).createTargets,
		"GET /targets/{target}":                           (*management).getTarget,
		"PUT /targets/{target}":                           (*management).putTarget,
		"DELETE /targets/{target}":                        (*management).deleteTarget,
		"GET /targets/{target}/attributes":                (*management).attributes,
		"GET /targets/{target}/autoConfirm":               (*management).autoConfirm,
		"GET /targets/{target}/installedDS":               (*management).installedSet,
		"GET /targets/{target}/assignedDS":                (*management).assignedSet,
		"POST /targets/{target}/assignedDS":               (*management).assignSets,
		"GET /targets/{target}/actions":                   (*management).listActions,
		"GET /targets/{target}/actions/{action}":          (*management).getAction,
		"PUT /targets/{target}/actions/{action}":          (*management).putAction,
		"DELETE /targets/{target}/actions/{action}":       (*management).cancel,
		"GET /targets/{target}/actions/{action}/status":   (*management).history,
		"PUT /system/configs":                             (*management).putConfigs,
		"PUT /system/configs/{key}":                       (*management).putConfig,
		"GET /system/configs/{key}":                       (*management).getConfig,
		"DELETE /system/configs/{key}":                    (*management).resetConfig,
		"POST /rollouts":                                  (*management).createRollout,
		"GET /rollouts/{rollout}":                         (*management).getRollout,
		"DELETE /rollouts/{rollout}":                      (*management).deleteRollout,
		"GET /rollouts/{rollout}/deploygroups":            (*management).rolloutGroups,
		"POST /rollouts/{rollout}/{verb}":                 (*management).changeRollout,
		"POST /targetfilters":                             (*management).createFilter,
		"POST /targetfilters/{filter}/autoAssignDS":       (*management).autoAssign,
		"DELETE /targetfilters/{filter}":                  (*management).deleteFilter,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		s.mux.HandleFunc(method+" /rest/v1"+path, func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != AdminUser || password != AdminPassword {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			err := h(&management{s, w, r})
			if f := (*failure)(nil); errors.As(err, &f) {
				f.write(w)
			} else if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
}

func (m *management) say(status int, body any) error {
	answer(m.w, status, body)
	return nil
}

func (m *management) read(into any) error {
	data, err := io.ReadAll(m.r.Body)
	if err != nil || json.Unmarshal(data, into) != nil {
		return errUnreadable
	}
	return nil
}

func (m *management) number(what string) (int64, error) {
	n, err := strconv.ParseInt(m.r.PathValue(what), 10, 64)
	if err != nil {
		return 0, errUnreadable
	}
	return n, nil
}

func page(content []object) object {
	return object{"content": content, "total": len(content), "size": len(content)}
}

func (m *management) listTypes() error {
	var all []object
	for i, t := range m.types {
		all = append(all, object{"id": i + 1, "key": t.Key, "name": t.Name})
	}
	return m.say(http.StatusOK, page(all))
}

func (m *management) createTypes() error {
	var in []struct{ Key, Name string }
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	for _, t := range in {
		m.types = append(m.types, moduleType{Key: t.Key, Name: t.Name, Part: t.Key})
		all = append(all, object{"id": m.next("moduleType"), "key": t.Key, "name": t.Name})
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) listSetTypes() error {
	var all []object
	for i, t := range m.setTypes {
		all = append(all, object{"id": i + 1, "key": t.Key, "name": t.Name})
	}
	return m.say(http.StatusOK, page(all))
}

func (m *management) createSetTypes() error {
	var in []setType
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	for _, t := range in {
		m.setTypes = append(m.setTypes, t)
		all = append(all, object{"id": m.next("setType"), "key": t.Key, "name": t.Name, "deleted": false})
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) createTargetTypes() error {
	var in []struct{ Name, Key, Colour string }
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	for _, t := range in {
		o := object{"id": m.next("targetType"), "key": t.Key, "name": t.Name, "colour": t.Colour, "deleted": false}
		m.targetTypes = append(m.targetTypes, o)
		all = append(all, o)
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) createModules() error {
	var in []struct{ Name, Version, Type, Vendor string }
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	for _, x := range in {
		mod := &module{id: m.next("module"), name: x.Name, version: x.Version, kind: x.Type, vendor: x.Vendor}
		m.modules[mod.id] = mod
		all = append(all, m.moduleShown(mod))
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) moduleShown(x *module) object {
	o := object{
		"id": x.id, "name": x.name, "version": x.version, "type": x.kind, "typeName": x.kind,
		"complete": true, "deleted": false, "encrypted": false, "locked": x.locked,
	}
	for _, t := range m.types {
		if t.Key == x.kind {
			o["typeName"] = t.Name
		}
	}
	if x.vendor != "" {
		o["vendor"] = x.vendor
	}
	return o
}

func (m *management) oneModule() (*module, error) {
	id, err := m.number("module")
	if err != nil {
		return nil, err
	}
	if x := m.modules[id]; x != nil {
		return x, nil
	}
	return nil, notFound("SoftwareModule", id)
}

func (m *management) upload() error {
	x, err := m.oneModule()
	if err != nil {
		return err
	}
	file, header, err := m.r.FormFile("file")
	if err != nil {
		return errUnreadable
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return &failure{status: http.StatusBadRequest}
	}
	a := newArtifact(0, cmp.Or(m.r.URL.Query().Get("filename"), header.Filename), content, m.o.Now())
	if want := m.r.FormValue("sha1sum"); want != "" && want != a.sha1 {
		return &failure{
			status: http.StatusBadRequest, code: "artifact.uploadFailed.checksum.sha1.match",
			class:   repoException + "InvalidSha1HashException",
			message: fmt.Sprintf("The given sha1 hash %s does not match the calculated sha1 hash %s", want, a.sha1),
		}
	}
	a.id = m.next("artifact")
	x.artifacts = append(x.artifacts, a)
	return m.say(http.StatusCreated, object{"id": a.id, "hashes": a.hashes(), "providedFilename": a.name, "size": len(content)})
}

func (m *management) addMetadata() error {
	x, err := m.oneModule()
	if err != nil {
		return err
	}
	var in []metadata
	if err := m.read(&in); err != nil {
		return err
	}
	for _, d := range in {
		if len([]rune(d.Value)) > 4000 {
			return constraint(fmt.Sprintf("createMetadata.metadata[%s].value size must be between 0 and 4000.", d.Key))
		}
	}
	x.metadata = append(x.metadata, in...)
	return m.say(http.StatusCreated, nil)
}

func (m *management) deleteMetadata() error {
	x, err := m.oneModule()
	if err != nil {
		return err
	}
	x.metadata = slices.DeleteFunc(x.metadata, func(d metadata) bool { return d.Key == m.r.PathValue("key") })
	return m.say(http.StatusNoContent, nil)
}

func (m *management) createSets() error {
	var in []struct {
		Name, Version, Type string
		Modules             []struct{ ID int64 }
	}
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	for _, x := range in {
		ds := &set{id: m.next("set"), name: x.Name, version: x.Version, kind: x.Type}
		for _, id := range x.Modules {
			mod := m.modules[id.ID]
			if mod == nil {
				return notFound("SoftwareModule", id.ID)
			}
			ds.modules = append(ds.modules, mod)
		}
		m.sets[ds.id] = ds
		all = append(all, m.setShown(ds))
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) setShown(ds *set) object {
	o := object{
		"id": ds.id, "name": ds.name, "version": ds.version, "type": ds.kind, "typeName": ds.kind,
		"complete": ds.complete(), "deleted": false, "locked": ds.locked, "valid": !ds.invalid, "requiredMigrationStep": false,
	}
	for _, t := range m.setTypes {
		if t.Key == ds.kind {
			o["typeName"] = t.Name
		}
	}
	modules := []object{}
	for _, x := range ds.modules {
		modules = append(modules, m.moduleShown(x))
	}
	o["modules"] = modules
	return o
}

func (m *management) oneSet() (*set, error) {
	id, err := m.number("set")
	if err != nil {
		return nil, err
	}
	if ds := m.sets[id]; ds != nil {
		return ds, nil
	}
	return nil, notFound("DistributionSet", id)
}

func (m *management) createTargets() error {
	var in []struct {
		ControllerID  string `json:"controllerId"`
		Name          string `json:"name"`
		Description   string `json:"description"`
		SecurityToken string `json:"securityToken"`
	}
	if err := m.read(&in); err != nil {
		return err
	}
	var all []object
	t := m.tenant(defaultTenant)
	for _, x := range in {
		if t.targets[x.ControllerID] != nil {
			return &failure{
				status: http.StatusConflict, code: "repo.entitiyAlreayExists", class: repoException + "EntityAlreadyExistsException",
				message: "The given entity already exists in database",
			}
		}
		d := m.addTarget(t, x.ControllerID, cmp.Or(x.Name, x.ControllerID), x.SecurityToken, AdminUser)
		d.description = x.Description
		all = append(all, m.targetShown(d))
	}
	return m.say(http.StatusCreated, all)
}

func (m *management) targetShown(t *target) object {
	o := object{
		"controllerId": t.id, "name": t.name, "requestAttributes": t.requestAttributes,
		"securityToken": t.token, "updateStatus": t.status,
	}
	if t.description != "" {
		o["description"] = t.description
	}
	if t.kind != 0 {
		o["targetType"] = t.kind
		o["targetTypeName"] = m.targetTypes[t.kind-1]["name"]
	}
	if m.config["user.confirmation.flow.enabled"] == true {
		o["autoConfirmActive"] = t.auto != nil
	}
	if t.installedAt != 0 {
		o["installedAt"] = t.installedAt
	}
	return o
}

func (m *management) oneTarget() (*target, error) {
	id := m.r.PathValue("target")
	if t := m.tenant(defaultTenant).targets[id]; t != nil {
		return t, nil
	}
	return nil, notFound("Target", id)
}

func (m *management) getTarget() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	return m.say(http.StatusOK, m.targetShown(t))
}

func (m *management) putTarget() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	var in struct {
		Name              *string `json:"name"`
		SecurityToken     *string `json:"securityToken"`
		RequestAttributes *bool   `json:"requestAttributes"`
		TargetType        *int64  `json:"targetType"`
	}
	if err := m.read(&in); err != nil {
		return err
	}
	if in.Name != nil {
		t.name = *in.Name
	}
	if in.SecurityToken != nil {
		t.token = *in.SecurityToken
	}
	if in.RequestAttributes != nil {
		t.requestAttributes = *in.RequestAttributes
	}
	if in.TargetType != nil {
		t.kind = *in.TargetType
	}
	return m.say(http.StatusOK, m.targetShown(t))
}

func (m *management) deleteTarget() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	tenant := m.tenant(defaultTenant)
	delete(tenant.targets, t.id)
	tenant.order = slices.DeleteFunc(tenant.order, func(o *target) bool { return o == t })
	for _, a := range t.actions {
		delete(m.actions, a.id)
	}
	return m.say(http.StatusNoContent, nil)
}

func (m *management) attributes() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	return m.say(http.StatusOK, t.attributes)
}

func (m *management) autoConfirm() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	if t.auto == nil {
		return m.say(http.StatusOK, object{"active": false})
	}
	return m.say(http.StatusOK, object{"active": true, "initiator": t.auto.initiator, "remark": t.auto.remark, "activatedAt": t.auto.at})
}

func (m *management) installedSet() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	return m.saySet(t.installed)
}

func (m *management) assignedSet() error {
	t, err := m.oneTarget()
	if err != nil {
		return err
	}
	return m.saySet(t.assigned)
}

func (m *management) saySet(ds *set) error {
	if ds == nil {
		return m.say(http.StatusNoContent, nil)
	}
	return m.say(http.StatusOK, m.setShown(ds))
}

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

var defaultConfig = map[string]any{"pollingTime": "00:05:00"}

func (m *management) set(key string, value any) error {
	old, known := m.config[key]
	if !known {
		return &failure{
			status: http.StatusBadRequest, code: "configKeyInvalid", class: repoException + "InvalidTenantConfigurationKeyException",
			message: fmt.Sprintf("The given configuration key %s does not exist.", key),
		}
	}
	if fmt.Sprintf("%T", old) != fmt.Sprintf("%T", value) {
		return errUnreadable
	}
	if key == "pollingTime" {
		clock, _, _ := strings.Cut(strings.Split(value.(string), ",")[0], "~")
		if d, err := clockTime(clock); err != nil || d < m.o.MinSleep {
			return &failure{
				status: http.StatusBadRequest, code: "configValueInvalid", class: repoException + "TenantConfigurationValidatorException",
				message: fmt.Sprintf("The polling interval is smaller then minimum polling interval. The allowed range is [%s, 23:59:59].", clockText(m.o.MinSleep)),
			}
		}
	}
	m.config[key] = value
	return nil
}

func (m *management) putConfig() error {
	var in struct{ Value any }
	if err := m.read(&in); err != nil {
		return err
	}
	if err := m.set(m.r.PathValue("key"), in.Value); err != nil {
		return err
	}
	return m.say(http.StatusNoContent, nil)
}

func (m *management) putConfigs() error {
	var in map[string]any
	if err := m.read(&in); err != nil {
		return err
	}
	for key, value := range in {
		if err := m.set(key, value); err != nil {
			return err
		}
	}
	return m.say(http.StatusNoContent, nil)
}

func (m *management) getConfig() error {
	value, ok := m.config[m.r.PathValue("key")]
	if !ok {
		return m.set(m.r.PathValue("key"), nil)
	}
	return m.say(http.StatusOK, object{"value": value, "global": true})
}

func (m *management) resetConfig() error {
	key := m.r.PathValue("key")
	if value, ok := defaultConfig[key]; ok {
		m.config[key] = value
	}
	return m.say(http.StatusNoContent, nil)
}
