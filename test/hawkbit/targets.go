package hawkbit

import (
	"cmp"
	"net/http"
	"slices"
)

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
