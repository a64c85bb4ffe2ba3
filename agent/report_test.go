package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"tandem/internal/config"
	"tandem/ota"
)

// A report is delivered when a server took it with its body, and not before.
func TestReportIsDelivered(t *testing.T) {
	t.Parallel()
	const report = `{"device":"one"}`
	for status, want := range map[int]bool{200: true, 202: true, 204: true, 301: false, 302: false, 303: false, 307: true, 308: true, 304: false, 500: false} {
		got := ""
		mux := http.NewServeMux()
		mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
			if status/100 == 3 {
				w.Header().Set("Location", "/elsewhere")
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if status/100 == 2 {
				got = string(body)
			}
			w.WriteHeader(status)
		})
		mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { // answers anybody
			if r.Method == http.MethodPost {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got = string(body)
			}
		})
		server := httptest.NewServer(mux)
		client := ota.NewClient(ota.ClientOptions{UserAgent: "tandem/test"})
		o := outlet{to: &config.Report{URL: server.URL + "/report"}, client: client}
		_, err := o.post(t.Context(), "", json.RawMessage(report))
		client.CloseIdleConnections()
		server.Close()
		if (err == nil) != want || (got == report) != want {
			t.Errorf("%d: %v, and a server has %q; want it delivered: %t", status, err, got, want)
		}
	}
}

// What each status means, to a server of either format.
func TestJudge(t *testing.T) {
	t.Parallel()
	otlp := map[int]verdict{}
	for s := 400; s < 600; s++ {
		otlp[s] = unwanted
	}
	for v, list := range map[verdict][]int{
		taken: {200, 201, 202, 204}, unfit: {400, 413, 422}, later: {301, 302, 303, 304, 401, 403, 404, 429, 502, 503, 504},
	} {
		for _, s := range list {
			otlp[s] = v
		}
	}
	for s, want := range otlp {
		if got := verdictOn(config.OTLP, s); got != want {
			t.Errorf("otlp: %d is %d, want %d", s, got, want)
		}
		if want == unwanted {
			want = later
		}
		if got := verdictOn(config.OwnReports, s); got != want {
			t.Errorf("tandem: %d is %d, want %d", s, got, want)
		}
	}
}
