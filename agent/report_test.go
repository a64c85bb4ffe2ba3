package agent

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

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
		err := post(t.Context(), client, server.URL+"/report", []byte(report))
		client.CloseIdleConnections()
		server.Close()
		if (err == nil) != want || (got == report) != want {
			t.Errorf("%d: %v, and a server has %q; want it delivered: %t", status, err, got, want)
		}
	}
}
