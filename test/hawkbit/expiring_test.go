package hawkbit_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"tandem/test/hawkbit"
)

// Links may be good for a while only, as those into an object store are. One that has
// expired is asked for anew, in the same download.
func TestExpiringLinks(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusForbidden, http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusGone} {
		b := newBench(t)
		var now atomic.Int32 // the signature that links have now
		b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.Contains(r.URL.Path, "/artifacts/"):
				if r.URL.RawQuery == fmt.Sprintf("signature=%d", now.Load()) {
					return false
				}
				http.Error(w, "Request has expired", status)
			case strings.Contains(r.URL.Path, "/deploymentBase/") && r.Method == http.MethodGet:
				rec := httptest.NewRecorder()
				b.standIn.ServeHTTP(rec, r)
				signed := fmt.Appendf(nil, `hello.tandem?signature=%d"}`, now.Load())
				_, _ = w.Write(bytes.ReplaceAll(rec.Body.Bytes(), []byte(`hello.tandem"}`), signed))
			default:
				return false
			}
			return true
		})
		n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
		offers := b.sync().Offers
		for range 5 { // more often than a file may be missing
			now.Add(1)
			file, err := b.source().Fetch(b.ctx, offers[0], nil)
			if err != nil {
				t.Fatalf("%d: %v", status, err)
			}
			b.check(os.Remove(file))
		}
		b.round()
		b.sync()
		b.sees(n, "finished", false)
	}
}
