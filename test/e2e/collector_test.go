package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"tandem/agent"
	dev "tandem/agent/device"
	"tandem/internal/jsonschema"
)

// collector is the server that a device reports to. It holds each report
// against the schema, and puts events together by their ids. Some reports it
// does not take, and some it takes without the device learning of it.
type collector struct {
	url    string
	schema *jsonschema.Schema

	mu     sync.Mutex
	random *rand.Rand // nil: it is well
	events map[string]dev.Event
	order  []string // ids, as they came first
	status []agent.Report
	wrong  []string
	posts  int
	faults int
	fault  bool // the last report met one: not two in a row, after which a device waits for minutes
	again  int  // events that came before
}

func newCollector(t testing.TB, random *rand.Rand) *collector {
	t.Helper()
	schema, err := jsonschema.Load("../../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{schema: schema, random: random, events: map[string]dev.Event{}}
	s := httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	c.url = s.URL + "/reports"
	return c
}

func (c *collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.posts++
	if err != nil {
		return // the device was killed while it reported
	}
	luck := 1.0
	if c.random != nil && !c.fault {
		luck = c.random.Float64()
	}
	c.fault = luck < 0.4
	if luck < 0.2 {
		c.faults++
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		c.wrong = append(c.wrong, r.Method+" "+r.Header.Get("Content-Type"))
	}
	if err := c.schema.Valid("#", body); err != nil {
		c.wrong = append(c.wrong, err.Error())
	}
	c.take(body)
	if luck < 0.4 {
		c.faults++
		panic(http.ErrAbortHandler) // it has the report, and the device does not know
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *collector) take(body []byte) {
	var r agent.Report
	if err := json.Unmarshal(body, &r); err != nil {
		c.wrong = append(c.wrong, err.Error())
		return
	}
	last := -1
	for _, e := range r.Events {
		if n := number(e.ID); n <= last {
			c.wrong = append(c.wrong, fmt.Sprintf("event %d after %d", n, last))
		} else {
			last = n
		}
		before, known := c.events[e.ID]
		switch {
		case !known:
			c.events[e.ID] = e
			c.order = append(c.order, e.ID)
		case !reflect.DeepEqual(before, e):
			c.wrong = append(c.wrong, fmt.Sprintf("two events have one id: %+v and %+v", before, e))
		default:
			c.again++
		}
	}
	c.status = append(c.status, r)
}

// number gives the number in an event's id.
func number(id string) int {
	_, n, _ := strings.Cut(id, "-")
	i, err := strconv.Atoi(n)
	if err != nil {
		return -1
	}
	return i
}

// get gives the events by their numbers, what is wrong, and what is missing.
func (c *collector) get() (events []dev.Event, wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.order {
		events = append(events, c.events[id])
	}
	slices.SortFunc(events, func(a, b dev.Event) int { return number(a.ID) - number(b.ID) })
	wrong = slices.Clone(c.wrong)
	for i, e := range events {
		if name, _, _ := strings.Cut(events[0].ID, "-"); number(e.ID) != i+1 || !strings.HasPrefix(e.ID, name+"-") {
			wrong = append(wrong, fmt.Sprintf("event %d has the id %s", i+1, e.ID))
		}
	}
	return events, wrong
}
