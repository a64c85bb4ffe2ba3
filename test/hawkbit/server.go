package hawkbit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options is what a Server works with.
type Options struct {
	Now func() time.Time
	// Random gives numbers from 0 up to 1, for polling times with a deviation.
	Random func() float64
	// GatewayToken lets any device of any tenant in; "": none does.
	GatewayToken string
	// TenantOnly lets the gateway token in to the tenant DEFAULT alone.
	TenantOnly bool
	// ForwardedHeaders makes links of what a proxy says that was asked for.
	ForwardedHeaders bool
	// MinSleep is the shortest time between polls that may be configured, and that
	// devices are told before a maintenance window; 0 is 30 seconds.
	MinSleep time.Duration
	// Delay is how long rollouts and automatic assignments take to act.
	Delay time.Duration
}

// The tenant that the Management API works on.
const defaultTenant = "DEFAULT"

const (
	maxStatuses   = 1000 // of an action
	maxMessages   = 50   // of a status
	maxMessage    = 512  // UTF-16 units
	maxAttributes = 100
	maxAttribute  = 128
	maxHistory    = 100 // messages that a device is given of its own
)

// Server is the stand-in. It is an http.Handler.
type Server struct {
	o   Options
	mux *http.ServeMux

	mu       sync.Mutex
	tenants  map[string]*tenant
	config   map[string]any
	ids      map[string]int64 // the last that was given, by what it is for
	modules  map[int64]*module
	sets     map[int64]*set
	types    []moduleType
	setTypes []setType
	targetTypes,
	filters []map[string]any
	rollouts map[int64]*rollout
	actions  map[int64]*action
}

type tenant struct {
	name    string
	targets map[string]*target
	order   []*target
}

// New makes a Server that knows no device.
func New(o Options) *Server {
	if o.MinSleep == 0 {
		o.MinSleep = 30 * time.Second
	}
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	s := &Server{
		o: o, tenants: map[string]*tenant{}, ids: map[string]int64{},
		modules: map[int64]*module{}, sets: map[int64]*set{}, rollouts: map[int64]*rollout{}, actions: map[int64]*action{},
		config: map[string]any{
			"pollingTime": "00:05:00", "authentication.targettoken.enabled": true, "authentication.gatewaytoken.enabled": true,
			"user.confirmation.flow.enabled": false, "repository.actions.autoclose.enabled": false,
			"authentication.header.enabled": false, "authentication.header.authority": "", "batch.assignments.enabled": false,
		},
	}
	s.types = []moduleType{
		{Key: "application", Name: "Application", Part: "bApp"}, {Key: "os", Name: "OS", Part: "os"}, {Key: "runtime", Name: "Runtime", Part: "jvm"},
	}
	s.setTypes = []setType{{Key: "os", Name: "OS only"}, {Key: "os_app", Name: "OS with app(s)"}, {Key: "app", Name: "App(s) only"}}
	s.ids["moduleType"], s.ids["setType"] = 2, 3
	s.mux = http.NewServeMux()
	s.routeDevices()
	s.routeManagement()
	return s
}

// next gives the next number of a kind.
func (s *Server) next(kind string) int64 {
	s.ids[kind]++
	return s.ids[kind]
}

// Skip leaves a number of a kind out, as if something had used it: "action".
func (s *Server) Skip(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next(kind)
}

func (s *Server) tenant(name string) *tenant {
	name = strings.ToUpper(name)
	if s.tenants[name] == nil {
		s.tenants[name] = &tenant{name: name, targets: map[string]*target{}}
	}
	return s.tenants[name]
}

func (s *Server) millis() int64 { return s.o.Now().UnixMilli() }

// ServeHTTP implements http.Handler. Requests are answered one after another.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	path := r.URL.EscapedPath()
	switch {
	case strings.Contains(strings.ToUpper(path), "%2F"):
		tomcatError(w)
		return
	case strings.Contains(strings.ToUpper(path), "%3B"), strings.Contains(strings.ToUpper(path), "%25"):
		s.springError(w, http.StatusBadRequest)
		return
	case len(path) > 1 && strings.HasSuffix(path, "/"):
		s.springError(w, http.StatusNotFound)
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		rec := &statusOnly{header: http.Header{}}
		s.mux.ServeHTTP(rec, r)
		if allow := rec.header.Get("Allow"); rec.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", strings.ReplaceAll(allow, "GET, HEAD", "GET"))
			s.springError(w, rec.status)
			return
		}
		s.springError(w, http.StatusNotFound)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// statusOnly finds out what the mux thinks of a request.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }
func (w *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

// base is how links begin: the origin that the client asked.
func (s *Server) base(r *http.Request) string {
	scheme, host := "http", r.Host
	if s.o.ForwardedHeaders && r.Header.Get("X-Forwarded-Host") != "" {
		scheme, host = r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host")
	}
	return scheme + "://" + host
}

type object map[string]any

func href(format string, args ...any) object { return object{"href": fmt.Sprintf(format, args...)} }

// answer writes JSON as hawkBit does, or nothing.
func answer(w http.ResponseWriter, status int, body any) {
	writeJSON(w, "application/hal+json", status, body)
}

func writeJSON(w http.ResponseWriter, contentType string, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// failure is an error as hawkBit words it.
type failure struct {
	status  int
	code    string // below hawkbit.server.error
	class   string
	message string
	info    object
}

func (f *failure) Error() string { return f.message }

func (f *failure) write(w http.ResponseWriter) {
	if f.code == "" {
		w.WriteHeader(f.status)
		return
	}
	body := object{"errorCode": "hawkbit.server.error." + f.code, "exceptionClass": f.class, "message": f.message}
	if f.info != nil {
		body["info"] = f.info
	}
	writeJSON(w, "application/json", f.status, body)
}

// The packages of hawkBit's exceptions.
const (
	restException = "org.eclipse.hawkbit.rest.exception."
	repoException = "org.eclipse.hawkbit.repository.exception."
)

var (
	errGone       = &failure{status: http.StatusGone}
	errNoEntity   = &failure{status: http.StatusNotFound}
	errUnreadable = &failure{
		status: http.StatusBadRequest, code: "rest.body.notReadable",
		class: restException + "MessageNotReadableException", message: "The given request body is not well formed",
	}
)

func notFound(kind string, id any) *failure {
	return &failure{
		status: http.StatusNotFound, code: "repo.entityNotFound", class: repoException + "EntityNotFoundException",
		message: fmt.Sprintf("%s with given identifier {%v} does not exist.", kind, id),
		info:    object{"entityId": id, "type": kind},
	}
}

func quota(n int, what, of string, limit int) *failure {
	return &failure{
		status: http.StatusTooManyRequests, code: "quota.tooManyEntries", class: repoException + "AssignmentQuotaExceededException",
		message: fmt.Sprintf("Quota exceeded: Cannot assign %d more %s entities to %s. The maximum is %d.", n, what, of, limit),
	}
}

func constraint(message string) *failure {
	return &failure{
		status: http.StatusBadRequest, code: "repo.constraintViolation",
		class: "jakarta.validation.ConstraintViolationException", message: message,
	}
}

// springError writes what the framework answers before hawkBit is asked.
func (s *Server) springError(w http.ResponseWriter, status int) {
	writeJSON(w, "application/json", status, object{
		"timestamp": s.o.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "status": status, "error": http.StatusText(status),
	})
}

// tomcatError writes what the web server answers before anybody is asked.
func tomcatError(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html;charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprint(w, "<!doctype html><html lang=\"en\"><head><title>HTTP Status 400 – Bad Request</title></head><body><h1>HTTP Status 400 – Bad Request</h1></body></html>")
}

// pathEscape escapes as hawkBit's links do.
func pathEscape(s string) string { return strings.ReplaceAll(url.PathEscape(s), ":", "%3A") }
