package hawkbit

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// links are those of an answer, by their relation.
type links map[string]struct {
	Href string `json:"href"`
}

// base is what a poll finds: how soon to ask again, and what there is to do.
type base struct {
	Config struct {
		Polling struct {
			Sleep string `json:"sleep"`
		} `json:"polling"`
	} `json:"config"`
	Links links `json:"_links"`
}

// maxSleep bounds how long a server can put a device off.
const maxSleep = 24 * time.Hour

// sleep is how long to wait until the next poll; 0 if the server does not say.
func (b *base) sleep() time.Duration {
	f := strings.Split(b.Config.Polling.Sleep, ":")
	if len(f) != 3 {
		return 0
	}
	var all time.Duration
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		n, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil || n > 24*365*3600 {
			return 0
		}
		all += min(time.Duration(n), maxSleep/unit) * unit
	}
	return min(maxSleep, all)
}

// offered is an action as a link names it. The number tells actions apart; the
// link changes whenever there is something new to read about the same one.
type offered struct {
	number int64
	query  string
}

// action reads a link to an action; a zero offered says that there is none.
func (b *base) action(rel string) (offered, error) {
	link := b.Links[rel].Href
	if link == "" {
		return offered{}, nil
	}
	u, err := url.Parse(link)
	if err != nil {
		return offered{}, fmt.Errorf("the link %s: %w", rel, err)
	}
	n, err := strconv.ParseInt(path.Base(u.Path), 10, 64)
	if err != nil || n <= 0 {
		return offered{}, fmt.Errorf("the link %s: %.200q names no action", rel, link)
	}
	return offered{n, u.RawQuery}, nil
}

// Mode is how much a server wants a step of an action: forced, attempt or skip.
type Mode string

// The modes.
const (
	Forced  Mode = "forced"
	Attempt Mode = "attempt"
	Skip    Mode = "skip"
)

// deployment is what a server wants of a device.
type deployment struct {
	Download Mode    `json:"download"`
	Update   Mode    `json:"update"`
	Window   string  `json:"maintenanceWindow"`
	Chunks   []chunk `json:"chunks"`
}

type chunk struct {
	Part      string     `json:"part"`
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Artifacts []artifact `json:"artifacts"`
	Metadata  []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"metadata"`
}

type artifact struct {
	Name   string `json:"filename"`
	Hashes struct {
		SHA256 string `json:"sha256"`
	} `json:"hashes"`
	Links links `json:"_links"`
}

// answerBody is what deploymentBase and confirmationBase answer.
type answerBody struct {
	ID           json.RawMessage `json:"id"`
	Deployment   *deployment     `json:"deployment"`
	Confirmation *deployment     `json:"confirmation"`
}

// feedback is what a device reports. It has no time: one that is wrong would
// spoil what the server knows of the device for good.
type feedback struct {
	Status status `json:"status"`
}

type status struct {
	Execution string   `json:"execution"`
	Result    result   `json:"result"`
	Code      *int     `json:"code,omitempty"`
	Details   []string `json:"details,omitempty"`
}

type result struct {
	Finished string `json:"finished"`
}

// words are the values of execution and finished that are used here.
const (
	closed     = "closed"
	proceeding = "proceeding"
	downloaded = "downloaded"
	rejected   = "rejected"

	none    = "none"
	success = "success"
	failure = "failure"
)

type confirmation struct {
	Confirmation string   `json:"confirmation"`
	Code         int      `json:"code"`
	Details      []string `json:"details,omitempty"`
}

// address makes the paths of the interface below the configured origin. What the
// server calls itself in its links plays no part.
type address struct{ root string }

func newAddress(origin, tenant, controller string) address {
	return address{strings.TrimRight(origin, "/") + "/" + url.PathEscape(tenant) + "/controller/v1/" + url.PathEscape(controller)}
}

func (a address) base() string { return a.root }

func (a address) configData() string { return a.root + "/configData" }

func (a address) installedBase() string { return a.root + "/installedBase" }

func (a address) of(rel string, o offered) string {
	s := fmt.Sprintf("%s/%s/%d", a.root, rel, o.number)
	if o.query != "" {
		s += "?" + o.query
	}
	return s
}

func (a address) feedback(rel string, number int64) string {
	return fmt.Sprintf("%s/%s/%d/feedback", a.root, rel, number)
}
