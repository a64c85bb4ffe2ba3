package hawkbit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"time"
)

// Operator drives a server, this one or a real one, through its Management API.
type Operator struct {
	URL    string
	Client *http.Client
}

// Assignment is how a set is given to a device.
type Assignment struct {
	Set       int64  `json:"id"`
	Type      string `json:"type,omitempty"` // forced, soft, timeforced, downloadonly
	ForceTime int64  `json:"forcetime,omitempty"`
	Weight    int    `json:"weight,omitempty"`
	Confirm   *bool  `json:"confirmationRequired,omitempty"`
	Window    *struct {
		Schedule string `json:"schedule"`
		Duration string `json:"duration"`
		Timezone string `json:"timezone"`
	} `json:"maintenanceWindow,omitempty"`
}

// ActionState is what an operator sees of an action.
type ActionState struct {
	ID     int64  `json:"id"`
	Active bool   `json:"active"`
	Status string `json:"status"`
	Type   string `json:"type"`
	Code   *int   `json:"lastStatusCode"`
}

// Entry is one of an action's history.
type Entry struct {
	Type     string    `json:"type"`
	Messages []*string `json:"messages"`
}

// TargetState is what an operator sees of a device.
type TargetState struct {
	Status string `json:"updateStatus"`
	Token  string `json:"securityToken"`
}

func (o *Operator) do(ctx context.Context, method, path string, body any, into any) (int, error) {
	var content io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case *form:
		content, kind = &b.body, b.kind
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, o.URL+"/rest/v1"+path, content)
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth(AdminUser, AdminPassword)
	req.Header.Set("Accept", "application/json")
	if content != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := o.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %d %.300s", method, path, resp.StatusCode, data)
	}
	if into != nil && len(data) > 0 {
		err = json.Unmarshal(data, into)
	}
	return resp.StatusCode, err
}

// Configure sets values of the tenant.
func (o *Operator) Configure(ctx context.Context, values map[string]any) error {
	_, err := o.do(ctx, http.MethodPut, "/system/configs", values, nil)
	return err
}

// AddTarget makes a device known.
func (o *Operator) AddTarget(ctx context.Context, id, token string) error {
	_, err := o.do(ctx, http.MethodPost, "/targets", []any{object{"controllerId": id, "name": id, "securityToken": token}}, nil)
	return err
}

// DeleteTarget makes a device unknown again.
func (o *Operator) DeleteTarget(ctx context.Context, id string) error {
	_, err := o.do(ctx, http.MethodDelete, "/targets/"+url.PathEscape(id), nil, nil)
	return err
}

// ChangeTarget changes what is known of a device.
func (o *Operator) ChangeTarget(ctx context.Context, id string, values map[string]any) error {
	_, err := o.do(ctx, http.MethodPut, "/targets/"+url.PathEscape(id), values, nil)
	return err
}

// Module is a software module with its artifacts, by their names.
type Module struct {
	Name, Version, Type string
	Files               map[string][]byte
	Metadata            map[string]string // that devices see
}

type form struct {
	body bytes.Buffer
	kind string
}

func newForm(name string, content []byte) (*form, error) {
	f := &form{}
	w := multipart.NewWriter(&f.body)
	part, err := w.CreateFormFile("file", name)
	if err != nil {
		return nil, err
	}
	if _, err := part.Write(content); err != nil {
		return nil, err
	}
	f.kind = w.FormDataContentType()
	return f, w.Close()
}

// AddModule makes a software module and returns its number.
func (o *Operator) AddModule(ctx context.Context, m Module) (int64, error) {
	var made []struct{ ID int64 }
	if _, err := o.do(ctx, http.MethodPost, "/softwaremodules", []any{object{"name": m.Name, "version": m.Version, "type": m.Type}}, &made); err != nil {
		return 0, err
	}
	id := made[0].ID
	for name, content := range m.Files {
		f, err := newForm(name, content)
		if err != nil {
			return 0, err
		}
		if _, err := o.do(ctx, http.MethodPost, fmt.Sprintf("/softwaremodules/%d/artifacts", id), f, nil); err != nil {
			return 0, err
		}
	}
	var data []any
	for k, v := range m.Metadata {
		data = append(data, object{"key": k, "value": v, "targetVisible": true})
	}
	if data == nil {
		return id, nil
	}
	_, err := o.do(ctx, http.MethodPost, fmt.Sprintf("/softwaremodules/%d/metadata", id), data, nil)
	return id, err
}

// AddSet makes a distribution set of modules and returns its number.
func (o *Operator) AddSet(ctx context.Context, name, version, kind string, modules ...int64) (int64, error) {
	list := []any{}
	for _, m := range modules {
		list = append(list, object{"id": m})
	}
	var made []struct{ ID int64 }
	_, err := o.do(ctx, http.MethodPost, "/distributionsets", []any{object{"name": name, "version": version, "type": kind, "modules": list}}, &made)
	if err != nil {
		return 0, err
	}
	return made[0].ID, nil
}

// Assign gives a set to a device and returns the number of the action; 0 if the
// device has the set already.
func (o *Operator) Assign(ctx context.Context, target string, a Assignment) (int64, error) {
	var done struct {
		Actions []struct{ ID int64 } `json:"assignedActions"`
	}
	if _, err := o.do(ctx, http.MethodPost, "/targets/"+url.PathEscape(target)+"/assignedDS", []any{a}, &done); err != nil {
		return 0, err
	}
	if len(done.Actions) == 0 {
		return 0, nil
	}
	return done.Actions[0].ID, nil
}

func (o *Operator) actionPath(target string, id int64) string {
	return fmt.Sprintf("/targets/%s/actions/%d", url.PathEscape(target), id)
}

// Cancel calls an action off; force ends one that was called off already. What is
// over cannot be, and is no error.
func (o *Operator) Cancel(ctx context.Context, target string, id int64, force bool) error {
	path := o.actionPath(target, id)
	if force {
		path += "?force=true"
	}
	status, err := o.do(ctx, http.MethodDelete, path, nil, nil)
	if status == http.StatusMethodNotAllowed {
		return nil
	}
	return err
}

// Force makes a soft action a forced one.
func (o *Operator) Force(ctx context.Context, target string, id int64) error {
	_, err := o.do(ctx, http.MethodPut, o.actionPath(target, id), object{"forceType": "forced"}, nil)
	return err
}

// Action tells the state of an action.
func (o *Operator) Action(ctx context.Context, target string, id int64) (ActionState, error) {
	var a ActionState
	_, err := o.do(ctx, http.MethodGet, o.actionPath(target, id), nil, &a)
	return a, err
}

// History tells all that is noted of an action, the oldest first.
func (o *Operator) History(ctx context.Context, target string, id int64) ([]Entry, error) {
	var page struct{ Content []Entry }
	_, err := o.do(ctx, http.MethodGet, o.actionPath(target, id)+"/status?limit=500&sort=id:ASC", nil, &page)
	return page.Content, err
}

// Target tells the state of a device.
func (o *Operator) Target(ctx context.Context, id string) (TargetState, error) {
	var t TargetState
	_, err := o.do(ctx, http.MethodGet, "/targets/"+url.PathEscape(id), nil, &t)
	return t, err
}

// Attributes tells what a device said of itself.
func (o *Operator) Attributes(ctx context.Context, id string) (map[string]string, error) {
	var a map[string]string
	_, err := o.do(ctx, http.MethodGet, "/targets/"+url.PathEscape(id)+"/attributes", nil, &a)
	return a, err
}

// Installed tells which set a device has, as NAME:VERSION; "" if none is known.
func (o *Operator) Installed(ctx context.Context, id string) (string, error) {
	var ds struct{ Name, Version string }
	status, err := o.do(ctx, http.MethodGet, "/targets/"+url.PathEscape(id)+"/installedDS", nil, &ds)
	if err != nil || status == http.StatusNoContent {
		return "", err
	}
	return ds.Name + ":" + ds.Version, nil
}

// Window is a maintenance window that opens at a time, in whole seconds.
func Window(from time.Time, length time.Duration) Assignment {
	from = from.UTC()
	var a Assignment
	a.Window = &struct {
		Schedule string `json:"schedule"`
		Duration string `json:"duration"`
		Timezone string `json:"timezone"`
	}{
		Schedule: fmt.Sprintf("%d %d %d %d %d ? %d", from.Second(), from.Minute(), from.Hour(), from.Day(), from.Month(), from.Year()),
		Duration: clockText(length), Timezone: "+00:00",
	}
	return a
}
