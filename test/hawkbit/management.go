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
