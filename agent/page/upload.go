package page

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// pace is how slowly an upload may come before it is given up: it keeps others waiting.
type pace struct {
	stall time.Duration // without a byte
	slack time.Duration // before the rate counts
	rate  int64         // bytes a second, on the whole
}

// upload streams a bundle from a browser to the agent, which verifies it as one from a
// stick: nothing of it is kept before its release is verified, and only a frame of it
// is in memory. When the browser goes away, what is not committed is undone.
func (p *Page) upload(w http.ResponseWriter, r *http.Request) {
	s := sessionOf(r)
	rc := http.NewResponseController(w)
	slow := false
	defer func() {
		if !slow {
			p.linger(w, r, lingerLong)
		}
	}()
	if s.role != Full {
		p.refuse(w, http.StatusForbidden, "only_look")
		return
	}
	parts, err := r.MultipartReader()
	if err != nil {
		p.refuse(w, http.StatusBadRequest, "no_bundle")
		return
	}
	q := url.Values{}
	for n := 0; n < 6; n++ { // the fields come first; the token before them
		part, err := parts.NextRawPart()
		if err != nil {
			break
		}
		if part.FormName() == "bundle" {
			if !same(q.Get("csrf"), s.csrf) {
				break
			}
			if part.FileName() == "" {
				p.refuse(w, http.StatusBadRequest, "no_file")
				return
			}
			q.Del("csrf")
			slow = p.install(w, r, rc, q, part)
			return
		}
		value, err := io.ReadAll(io.LimitReader(part, 256))
		if err != nil {
			break
		}
		switch name := part.FormName(); name {
		case "csrf", "allow_downgrade", "reinstall", "allow_revoked":
			q.Set(name, string(value))
		}
	}
	p.refuse(w, http.StatusForbidden, "other_session")
}

// refuse is fail where the rest of an upload is not wanted.
func (p *Page) refuse(w http.ResponseWriter, status int, name string) {
	w.Header().Set("Connection", "close")
	p.fail(w, status, name)
}

// install has the agent install an upload, and reports whether that came too slowly.
func (p *Page) install(w http.ResponseWriter, r *http.Request, rc *http.ResponseController, q url.Values, file io.Reader) bool {
	if !p.keepAt.TryLock() {
		p.refuse(w, http.StatusConflict, "uploading")
		return false
	}
	defer p.keepAt.Unlock()
	t := p.tasks.begin("install", by(r))
	if t == nil {
		p.refuse(w, http.StatusTooManyRequests, "busy")
		return false
	}
	_ = rc.SetWriteDeadline(time.Time{}) // the answer comes at the end
	body := &steady{from: file, rc: rc, pace: p.pace, now: p.o.Now, slow: errors.New(p.text("slow"))}
	p.tasks.run(r.Context(), t, "/v1/install", q, body)
	_ = rc.SetWriteDeadline(p.o.Now().Add(answerTime))
	w.Header().Set("Connection", "close") // what the agent did not want of it is not read
	http.Redirect(w, r, "/#now", http.StatusSeeOther)
	return body.gone
}

// linger takes in the rest of a request that has been answered: a browser sends all of it
// before it reads the answer, and would say that the connection was cut instead. It ends
// after a while, and at once where the other end waits to be told to go on.
func (p *Page) linger(w http.ResponseWriter, r *http.Request, most time.Duration) {
	rc := http.NewResponseController(w)
	if r.Header.Get("Expect") == "" && rc.Flush() == nil && rc.SetReadDeadline(p.o.Now().Add(most)) == nil {
		_, _ = io.Copy(io.Discard, r.Body) // an error is the client's end
	}
}

// steady reads an upload, and ends one that stalls or drips. While nobody reads, because
// the agent is busy, no time counts.
type steady struct {
	from  io.Reader
	rc    *http.ResponseController
	pace  pace
	now   func() time.Time
	slow  error // what it is ended with
	n     int64
	spent time.Duration
	gone  bool // it was ended
}

// Read implements io.Reader.
func (s *steady) Read(b []byte) (int, error) {
	start := s.now()
	_ = s.rc.SetReadDeadline(start.Add(s.pace.stall))
	n, err := s.from.Read(b)
	s.n += int64(n)
	s.spent += s.now().Sub(start)
	if err == nil && s.spent > s.pace.slack && s.n/s.pace.rate < int64((s.spent-s.pace.slack)/time.Second) {
		s.gone, err = true, s.slow
	}
	return n, err
}
