package hawkbit

import (
	"compress/gzip"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// call is a request of a device.
type call struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	tenant *tenant
	target *target
	prefix string // of links
}

func (s *Server) routeDevices() {
	const base = "/{tenant}/controller/v1/{id}"
	for pattern, h := range map[string]func(*call) error{
		"GET " + base:                                            (*call).poll,
		"PUT " + base + "/configData":                            (*call).configData,
		"GET " + base + "/deploymentBase/{action}":               (*call).deploymentBase,
		"POST " + base + "/deploymentBase/{action}/feedback":     (*call).feedback,
		"GET " + base + "/cancelAction/{action}":                 (*call).cancelAction,
		"POST " + base + "/cancelAction/{action}/feedback":       (*call).cancelFeedback,
		"GET " + base + "/confirmationBase":                      (*call).confirmations,
		"GET " + base + "/confirmationBase/{action}":             (*call).confirmationBase,
		"POST " + base + "/confirmationBase/{action}/feedback":   (*call).confirm,
		"POST " + base + "/confirmationBase/activateAutoConfirm": (*call).activate,
		"POST " + base + "/confirmationBase/deactivateAutoConfirm": func(c *call) error {
			c.target.auto = nil
			c.w.WriteHeader(http.StatusOK)
			return nil
		},
		"GET " + base + "/installedBase/{action}":                       (*call).installedBase,
		"PUT " + base + "/installedBase":                                (*call).putInstalled,
		"GET " + base + "/softwaremodules/{module}/artifacts":           (*call).artifacts,
		"GET " + base + "/softwaremodules/{module}/artifacts/{name...}": (*call).download,
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			c := &call{Server: s, w: w, r: r, tenant: s.tenant(r.PathValue("tenant"))}
			err := c.enter()
			if err == nil {
				c.prefix = fmt.Sprintf("%s/%s/controller/v1/%s", s.base(r), r.PathValue("tenant"), pathEscape(c.target.id))
				err = h(c)
			}
			if f := (*failure)(nil); errors.As(err, &f) {
				f.write(w)
			}
		})
	}
}

var errDenied = &failure{status: http.StatusUnauthorized}

// enter finds out who asks. A device that the gateway token lets in is made when
// it polls.
func (c *call) enter() error {
	id := c.r.PathValue("id")
	c.target = c.tenant.targets[id]
	scheme, token, _ := strings.Cut(c.r.Header.Get("Authorization"), " ")
	gateway := false
	switch {
	case scheme == "TargetToken" && c.config["authentication.targettoken.enabled"] == true &&
		c.target != nil && token == c.target.token:
	case scheme == "GatewayToken" && c.o.GatewayToken != "" && token == c.o.GatewayToken && (!c.o.TenantOnly || c.tenant.name == defaultTenant):
		gateway = true
	case c.config["authentication.header.enabled"] == true && c.r.Header.Get("X-Controller-Id") == id &&
		c.r.Header.Get("X-Authority") == c.config["authentication.header.authority"]:
	default:
		return errDenied
	}
	if c.target != nil {
		return nil
	}
	if !gateway || c.r.PathValue("action") != "" {
		return notFound("Target", id)
	}
	var wrong []string
	if n := len([]rune(id)); n > 128 {
		wrong = append(wrong, "name size must be between 1 and 128.")
		if n > 256 {
			wrong = append(wrong, "controllerId size must be between 1 and 256.")
		}
	}
	if strings.ContainsFunc(id, unicode.IsSpace) {
		wrong = append(wrong, "controllerId has whitespaces which are not allowed.")
	}
	if len(wrong) > 0 {
		return constraint(strings.Join(wrong, " "))
	}
	c.target = c.addTarget(c.tenant, id, id, "", "CONTROLLER_PLUG_AND_PLAY")
	c.target.description = "Plug and Play target: " + id
	return nil
}

func (s *Server) addTarget(t *tenant, id, name, token, by string) *target {
	d := &target{id: id, name: name, token: token, createdBy: by, attributes: map[string]string{}, requestAttributes: true, status: "unknown"}
	if token == "" {
		sum := md5.Sum(fmt.Appendf(nil, "token %d", s.next("token")))
		d.token = hex.EncodeToString(sum[:])
	}
	t.targets[id] = d
	t.order = append(t.order, d)
	return d
}

// answerTagged answers with an entity tag, or with 304.
func (c *call) answerTagged(body any) error {
	kind := "application/hal+json"
	switch accept := c.r.Header.Get("Accept"); {
	case accept == "", strings.Contains(accept, "*/*"), strings.Contains(accept, "hal+json"):
	case strings.Contains(accept, "application/json"):
		kind = "application/json"
	case strings.Contains(accept, "cbor"):
		c.w.Header().Set("Content-Type", "application/cbor")
		c.w.Header().Set("ETag", `"cbor"`)
		_, _ = c.w.Write([]byte{0xa0})
		return nil
	default:
		c.w.Header().Set("Accept", "application/hal+json, application/json, application/cbor")
		c.w.WriteHeader(http.StatusNotAcceptable)
		return nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	sum := md5.Sum(data)
	tag := `"0` + hex.EncodeToString(sum[:]) + `"`
	if c.r.Method == http.MethodGet {
		c.w.Header().Set("ETag", tag)
	}
	if strings.TrimPrefix(c.r.Header.Get("If-None-Match"), "W/") == tag {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.w.Header().Set("Content-Type", kind)
	_, _ = c.w.Write(data)
	return nil
}

func (c *call) poll() error {
	t := c.target
	t.polled = true
	if t.status == "unknown" {
		t.status = "registered"
	}
	now := c.o.Now()
	links := object{}
	sleep := c.sleep(t)
	if open := t.open(); len(open) > 0 {
		a := open[0]
		if a.status != stCanceling && a.window != nil && a.window.state(now) == windowOver {
			a.status = stCanceling
			c.log(a, stCanceling, "manual cancelation requested")
		}
		switch a.status {
		case stCanceling:
			links["cancelAction"] = href("%s/cancelAction/%d", c.prefix, a.id)
		case stWaiting:
			links["confirmationBase"] = c.changing("confirmationBase", a)
		default:
			links["deploymentBase"] = c.changing("deploymentBase", a)
			if a.window != nil && a.window.state(now) == windowAhead {
				sleep = min(sleep, max(c.o.MinSleep, a.window.next(now).Sub(now)/3))
			}
		}
	}
	if a := t.installation(); a != nil {
		links["installedBase"] = href("%s/installedBase/%d", c.prefix, a.id)
	}
	if t.requestAttributes {
		links["configData"] = href("%s/configData", c.prefix)
	}
	body := object{"config": object{"polling": object{"sleep": clockText(sleep)}}}
	if len(links) > 0 {
		body["_links"] = links
	}
	return c.answerTagged(body)
}

// changing is a link that is another after each change of an action.
func (c *call) changing(what string, a *action) object {
	n := int64(a.changes)
	if a.forced(c.o.Now()) {
		n += 1 << 20
	}
	if a.window != nil && a.window.state(c.o.Now()) == windowOpen {
		n += 1 << 21
	}
	return href("%s/%s/%d?c=%d", c.prefix, what, a.id, n+a.id<<24)
}

// sleep is how long a device is told to wait until its next poll.
func (s *Server) sleep(t *target) time.Duration {
	rules := strings.Split(s.config["pollingTime"].(string), ",")
	for _, rule := range rules[1:] {
		query, value, _ := strings.Cut(rule, "->")
		if matches(strings.TrimSpace(query), t) {
			d, _ := s.deviating(strings.TrimSpace(value))
			return d
		}
	}
	d, _ := s.deviating(strings.TrimSpace(rules[0]))
	return d
}

// deviating reads HH:MM:SS and HH:MM:SS~P%.
func (s *Server) deviating(text string) (time.Duration, error) {
	clock, by, ok := strings.Cut(text, "~")
	d, err := clockTime(clock)
	if err != nil || !ok {
		return d, err
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(by, "%"))
	if err != nil {
		return 0, err
	}
	return d + time.Duration((2*s.o.Random()-1)*float64(d)*float64(percent)/100), nil
}

// body reads JSON. hawkBit takes it in gzip, too.
func (c *call) body(into any) error {
	kind, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if kind != "application/json" {
		c.w.Header().Set("Accept", "application/json, application/cbor")
		c.springError(c.w, http.StatusUnsupportedMediaType)
		return errors.New("answered")
	}
	var in io.Reader = c.r.Body
	if c.r.Header.Get("Content-Encoding") == "gzip" {
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return errUnreadable
		}
		in = unzip
	}
	data, err := io.ReadAll(in)
	if err != nil || json.Unmarshal(data, into) != nil {
		return errUnreadable
	}
	return nil
}

func (c *call) ok() error {
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) configData() error {
	var in struct {
		Mode string         `json:"mode"`
		Data map[string]any `json:"data"`
	}
	if err := c.body(&in); err != nil {
		return err
	}
	if len(in.Data) == 0 || !slices.Contains([]string{"", "merge", "replace", "remove"}, in.Mode) {
		return errUnreadable
	}
	t := c.target
	next := maps.Clone(t.attributes)
	if in.Mode == "replace" {
		next = map[string]string{}
	}
	for k, v := range in.Data {
		var text string
		switch v := v.(type) {
		case nil:
		case string:
			text = v
		case bool, float64:
			text = fmt.Sprint(v)
		default:
			return errUnreadable
		}
		if in.Mode == "remove" || v == nil {
			delete(next, k)
			continue
		}
		if len([]rune(k)) > maxAttribute || len([]rune(text)) > maxAttribute {
			return &failure{
				status: http.StatusBadRequest, code: "repo.invalidTargetAttributes",
				class: repoException + "InvalidTargetAttributeException", message: "The given target attributes are invalid",
			}
		}
		next[k] = text
	}
	if len(next) > maxAttributes {
		return quota(len(next), "Attribute", "Target '1'", maxAttributes)
	}
	t.attributes = next
	if in.Mode != "remove" {
		t.requestAttributes = false
	}
	return c.ok()
}

// action finds the action that a request is about.
func (c *call) action() (*action, error) {
	id, err := strconv.ParseInt(c.r.PathValue("action"), 10, 64)
	if err != nil {
		return nil, errUnreadable
	}
	a := c.actions[id]
	switch {
	case a == nil:
		return nil, notFound("Action", id)
	case a.target != c.target:
		return nil, &failure{
			status: http.StatusNotFound, code: "repo.entityNotFound", class: repoException + "EntityNotFoundException",
			message: fmt.Sprintf("Not a valid action (%d) for target: %s", id, c.target.id),
		}
	}
	return a, nil
}

// deployment says what a device is to do about an action.
func (c *call) deployment(a *action) object {
	now := c.o.Now()
	how := "attempt"
	if a.forced(now) {
		how = "forced"
	}
	update := how
	d := object{"download": how, "chunks": c.chunks(a)}
	if a.forceType == "downloadonly" {
		update = "skip"
	}
	if a.window != nil {
		d["maintenanceWindow"] = "available"
		if a.window.state(now) != windowOpen {
			d["maintenanceWindow"], update = "unavailable", "skip"
		}
	}
	d["update"] = update
	return d
}

func (c *call) chunks(a *action) []object {
	chunks := []object{}
	for _, m := range a.set.modules {
		part := m.kind
		for _, t := range c.types {
			if t.Key == m.kind && t.Part != "" {
				part = t.Part
			}
		}
		chunk := object{"part": part, "version": m.version, "name": m.name, "artifacts": c.listArtifacts(m)}
		var visible []object
		for _, d := range m.metadata {
			if d.TargetVisible {
				visible = append(visible, object{"key": d.Key, "value": d.Value})
			}
		}
		if visible != nil {
			chunk["metadata"] = visible
		}
		chunks = append(chunks, chunk)
	}
	return chunks
}

func (c *call) deploymentBase() error {
	a, err := c.action()
	if err != nil {
		return err
	}
	if a.status == stCanceling || a.status == stCanceled || a.status == stWaiting {
		return errNoEntity
	}
	body := object{"id": strconv.FormatInt(a.id, 10), "deployment": c.deployment(a)}
	// What a device reads once more after the end is told so, too: the action
	// is back at "retrieved", and what it had installed is not known any more.
	if n := len(a.history); n == 0 || a.history[n-1].kind != stRetrieved {
		c.log(a, stRetrieved, serverSays+"Target retrieved update action and should start now the download.")
		a.status = stRetrieved
	}
	c.addHistory(a, body)
	return c.answerTagged(body)
}

func (c *call) addHistory(a *action, body object) {
	n, err := strconv.Atoi(c.r.URL.Query().Get("actionHistory"))
	if err != nil || n == 0 {
		return
	}
	if n < 0 || n > maxHistory {
		n = maxHistory
	}
	entries := slices.Clone(a.history)
	slices.SortStableFunc(entries, func(x, y status) int {
		if x.at != y.at {
			return int(max(-1, min(1, y.at-x.at)))
		}
		return int(y.id - x.id)
	})
	messages := []string{}
	for _, e := range entries {
		for _, m := range e.messages {
			text, _ := m.(string)
			if m == nil || strings.HasPrefix(text, serverSays) || len(messages) == n {
				continue
			}
			messages = append(messages, text)
		}
	}
	body["actionHistory"] = object{"status": strings.ToUpper(a.status), "messages": messages}
}

func (c *call) installedBase() error {
	a, err := c.action()
	if err != nil {
		return err
	}
	if a.active || a.status == stCanceled {
		return errNoEntity
	}
	body := object{"id": strconv.FormatInt(a.id, 10), "deployment": c.deployment(a)}
	c.addHistory(a, body)
	return c.answerTagged(body)
}

func (c *call) putInstalled() error {
	var in struct{ Name, Version string }
	if err := c.body(&in); err != nil {
		return err
	}
	for _, ds := range c.sets {
		if ds.name == in.Name && ds.version == in.Version {
			if c.offline(c.target, ds, "Assignment reported by the device") != nil {
				c.w.WriteHeader(http.StatusCreated)
				return nil
			}
			return c.ok()
		}
	}
	f := notFound("DistributionSet", map[string]string{in.Name: in.Version})
	f.message = fmt.Sprintf("DistributionSet with given identifier {%s=%s} does not exist.", in.Name, in.Version)
	return f
}
