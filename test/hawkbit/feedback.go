package hawkbit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// report is the status that a device reports.
type report struct {
	execution, finished string
	code                *int
	details             []any // strings, and null
	at                  int64 // 0: now
}

// readReport reads a feedback. hawkBit is generous about details and code, and
// strict about the words.
func (c *call) readReport() (*report, error) {
	var in struct {
		Timestamp *json.Number `json:"timestamp"`
		Status    *struct {
			Execution string `json:"execution"`
			Result    *struct {
				Finished string `json:"finished"`
			} `json:"result"`
			Code    json.RawMessage `json:"code"`
			Details json.RawMessage `json:"details"`
		} `json:"status"`
	}
	if err := c.body(&in); err != nil {
		return nil, err
	}
	st := in.Status
	if st == nil || st.Result == nil ||
		!slices.Contains([]string{"closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download"}, st.Execution) ||
		!slices.Contains([]string{"none", "success", "failure"}, st.Result.Finished) {
		return nil, errUnreadable
	}
	r := &report{execution: st.Execution, finished: st.Result.Finished}
	if in.Timestamp != nil {
		at, err := in.Timestamp.Int64()
		if err != nil {
			return nil, errUnreadable
		}
		r.at = at
	}
	var err error
	if r.code, err = readCode(st.Code); err != nil {
		return nil, errUnreadable
	}
	if r.details, err = readDetails(st.Details); err != nil {
		return nil, errUnreadable
	}
	return r, nil
}

func readCode(raw json.RawMessage) (*int, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	text := string(raw)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	n, err := strconv.Atoi(text)
	return &n, err
}

func readDetails(raw json.RawMessage) ([]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil && string(raw) != "null" {
		return []any{one}, nil
	}
	var all []any
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	for i, v := range all {
		switch v := v.(type) {
		case nil, string:
		case float64, bool:
			all[i] = fmt.Sprint(v)
		default:
			return nil, errors.New("a detail that is no text")
		}
	}
	return all, nil
}

// messages are what is kept of a report, or why it is refused.
func (r *report) messages(codeText string) ([]any, error) {
	var all []any
	for _, d := range r.details {
		text, ok := d.(string)
		if !ok {
			all = append(all, nil)
			continue
		}
		if unsafe(text) {
			return nil, constraint("addUpdateActionStatus.create.messages[].<iterable element> Invalid characters in string.")
		}
		all = append(all, split(text)...)
	}
	if r.code != nil {
		all = append(all, fmt.Sprintf(codeText, *r.code))
	}
	if len(all) > maxMessages {
		return nil, quota(len(all), "Message", "ActionStatus '<new>'", maxMessages)
	}
	return all, nil
}

func (c *call) feedback() error {
	r, err := c.readReport()
	if err != nil {
		return err
	}
	a, err := c.action()
	switch {
	case err != nil:
		return err
	case !a.active:
		return errGone
	case a.status == stWaiting:
		return errNoEntity
	}
	kind, standard := stRunning, "Target reported PROCEEDING."
	switch r.execution {
	case "closed":
		kind, standard = stFinished, "Target reported CLOSED with OK!."
		if r.finished == "failure" {
			kind, standard = stError, "Target reported CLOSED with ERROR!."
		}
	case "downloaded":
		kind, standard = stDownloaded, "Target confirmed that it downloaded everything."
	case "download":
		kind, standard = stDownload, "Target started download."
	case "rejected":
		kind, standard = "warning", "Target REJECTED update."
	case "canceled":
		kind, standard = stCanceled, "Target confirmed cancellation.."
	}
	messages, err := r.messages("Device reported status code: %d")
	if err != nil {
		return err
	}
	if r.execution != "closed" && a.full() {
		return a.quota()
	}
	if len(messages) == 0 {
		messages = []any{serverSays + standard}
	}
	at := r.at
	if at == 0 {
		at = c.millis()
	}
	c.logAt(a, status{kind: kind, messages: messages, code: r.code, at: at})
	a.lastCode = r.code
	switch {
	case kind == stFinished:
		c.finish(a, at)
	case kind == stError:
		a.hurt()
	case kind == stDownloaded && a.forceType == "downloadonly":
		a.active, a.status = false, stDownloaded
		c.target.status = "in_sync"
	}
	return c.ok()
}

func (c *call) cancelAction() error {
	a, err := c.action()
	if err != nil {
		return err
	}
	if a.status != stCanceling && a.status != stCanceled {
		return errNoEntity
	}
	if a.active {
		c.log(a, stRetrieved, serverSays+"Target retrieved cancel action and should start now the cancellation.")
	}
	id := strconv.FormatInt(a.id, 10)
	return c.answerTagged(object{"id": id, "cancelAction": object{"stopId": id}})
}

func (c *call) cancelFeedback() error {
	r, err := c.readReport()
	if err != nil {
		return err
	}
	a, err := c.action()
	switch {
	case err != nil:
		return err
	case a.status != stCanceling && a.status != stCanceled:
		return &failure{
			status: http.StatusMethodNotAllowed, code: "action.notCancelable",
			class: repoException + "CancelActionNotAllowedException", message: "The action is not in canceling state.",
		}
	case !a.active:
		return c.ok()
	}
	details, err := r.messages("Device reported status code: %d")
	if err != nil {
		return err
	}
	say := func(kind string, messages ...any) {
		c.logAt(a, status{kind: kind, messages: append(messages, details...), code: r.code, at: c.millis()})
	}
	switch {
	case r.execution == "closed" && r.finished == "failure":
		say(stError, serverSays+"Target was not able to complete cancellation.")
		a.status = stRunning
	case r.execution == "rejected":
		say("cancel_rejected", serverSays+"Target rejected the cancellation request.")
		a.status = stRunning
	case r.execution == "closed":
		say(stCanceled, serverSays+"Cancellation confirmed.", serverSays+"Cancellation completion is finished successfully.")
		a.canceled()
	case r.execution == "canceled":
		say("warning", serverSays+"Target reported cancel for a cancel which is not supported by the server.")
	default:
		if len(details) == 0 {
			details = []any{nil}
		}
		say(stRunning)
	}
	return c.ok()
}

func (c *call) confirmations() error {
	t := c.target
	auto := object{"active": t.auto != nil, "activatedAt": 0}
	links := object{}
	if t.auto != nil {
		auto["initiator"], auto["remark"], auto["activatedAt"] = t.auto.initiator, t.auto.remark, t.auto.at
		links["deactivateAutoConfirm"] = href("%s/confirmationBase/deactivateAutoConfirm", c.prefix)
	} else {
		links["activateAutoConfirm"] = href("%s/confirmationBase/activateAutoConfirm", c.prefix)
	}
	if open := t.open(); len(open) > 0 && open[0].status == stWaiting {
		links["confirmationBase"] = c.changing("confirmationBase", open[0])
	}
	return c.answerTagged(object{"autoConfirm": auto, "_links": links})
}

func (c *call) confirmationBase() error {
	a, err := c.action()
	if err != nil {
		return err
	}
	if a.status != stWaiting {
		return errNoEntity
	}
	body := object{"id": strconv.FormatInt(a.id, 10), "confirmation": c.deployment(a)}
	c.addHistory(a, body)
	return c.answerTagged(body)
}

func (c *call) confirm() error {
	var in struct {
		Confirmation string
		Code         json.RawMessage
		Details      json.RawMessage
	}
	if err := c.body(&in); err != nil {
		return err
	}
	if in.Confirmation != "confirmed" && in.Confirmation != "denied" {
		return errUnreadable
	}
	r := &report{}
	var err error
	if r.code, err = readCode(in.Code); err != nil {
		return errUnreadable
	}
	if r.details, err = readDetails(in.Details); err != nil {
		return errUnreadable
	}
	a, err := c.action()
	switch {
	case err != nil:
		return err
	case !a.active:
		return errGone
	case a.status != stWaiting:
		return errNoEntity
	}
	code := r.code
	r.code = nil
	messages, err := r.messages("")
	if err != nil {
		return err
	}
	kind := stWaiting
	if in.Confirmation == "confirmed" {
		kind = stRunning
		messages = append(messages, serverSays+"Target confirmed action. Therefore, it will be set to the running state to proceed with the deployment.")
	} else {
		messages = append(messages, serverSays+"Target rejected action. Action will stay in confirmation pending state.")
	}
	if code != nil {
		messages = append(messages, fmt.Sprintf("Confirmation status code: %d", *code))
	}
	c.logAt(a, status{kind: kind, messages: messages, code: code, at: c.millis()})
	a.status, a.lastCode = kind, code
	return c.ok()
}

func (c *call) activate() error {
	var in struct{ Initiator, Remark string }
	if c.r.ContentLength != 0 {
		if err := c.body(&in); err != nil {
			return err
		}
	}
	t := c.target
	if t.auto != nil {
		return &failure{
			status: http.StatusConflict, code: "repo.autoConfAlreadyActive", class: repoException + "AutoConfirmationAlreadyActiveException",
			message: "Auto confirmation is already active for device " + t.id,
		}
	}
	t.auto = &autoConfirm{in.Initiator, in.Remark, c.millis()}
	for _, a := range t.open() {
		if a.status == stWaiting {
			c.confirmByItself(a)
		}
	}
	return c.ok()
}
