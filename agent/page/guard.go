package page

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// policy is what a browser is allowed to do with the page: nothing but what comes from
// here, and nothing inside another page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// guard stands before all else: it answers only whoever asks for this page by its own
// name, and takes orders only from its own pages.
func (p *Page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin") // "no-referrer" would take the Origin from our own forms, too
		h.Set("Cache-Control", "no-store")
		if !p.ownName(r) {
			http.Error(w, p.text("not_own_name"), http.StatusMisdirectedRequest)
			return
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodPost:
			site := r.Header.Get("Sec-Fetch-Site")
			if !strings.EqualFold(r.Header.Get("Origin"), p.scheme()+"://"+r.Host) || site != "" && site != "same-origin" {
				http.Error(w, p.text("not_from_page"), http.StatusForbidden)
				return
			}
			_ = http.NewResponseController(w).EnableFullDuplex() // see linger
		default:
			http.Error(w, p.text("bad_method"), http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *Page) scheme() string {
	if p.secure {
		return "https"
	}
	return "http"
}

// ownName reports whether a request names the page as its address does, port included,
// or as a given certificate does.
func (p *Page) ownName(r *http.Request) bool {
	local := localAddr(r)
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = strings.Trim(r.Host, "[]"), map[bool]string{true: "443", false: "80"}[p.secure]
	}
	if port != strconv.Itoa(int(local.Port())) {
		return false
	}
	mine := local.Addr().Unmap().WithZone("")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("") == mine
	}
	if p.leaf != nil && p.o.Config.Certificate != "" {
		return p.leaf.Leaf.VerifyHostname(host) == nil
	}
	return strings.EqualFold(host, "localhost") && mine.IsLoopback()
}

// localAddr is the address that a request came to.
func localAddr(r *http.Request) netip.AddrPort {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String()) // TCP has no other
	return ap
}

// cookieName has the port in it: cookies are shared by all ports of a host.
func (p *Page) cookieName(r *http.Request) string {
	name := "tandem-" + strconv.Itoa(int(localAddr(r).Port()))
	if p.secure {
		return "__Host-" + name
	}
	return name
}

func (p *Page) setCookie(w http.ResponseWriter, r *http.Request, token string) {
	c := &http.Cookie{Name: p.cookieName(r), Value: token, Path: "/", HttpOnly: true, Secure: p.secure, SameSite: http.SameSiteStrictMode}
	if token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

type sessionKey struct{}

func sessionOf(r *http.Request) *session {
	s, _ := r.Context().Value(sessionKey{}).(*session)
	return s
}

// session finds out who asks. passive says that a request comes by itself, and is no
// sign that a person is there.
func (p *Page) session(r *http.Request, passive bool) (*session, *http.Request) {
	c, err := r.Cookie(p.cookieName(r))
	if err != nil {
		return nil, r
	}
	s := p.doors.find(c.Value, r.RemoteAddr, !passive)
	if s == nil {
		return nil, r
	}
	return s, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s))
}

// inside lets in who is logged in.
func (p *Page) inside(passive bool, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, r := p.session(r, passive)
		switch {
		case s != nil:
			next(w, r)
		case r.Method == http.MethodGet && !passive:
			p.showLogin(w, http.StatusOK, "")
		default:
			p.showLogin(w, http.StatusUnauthorized, p.text("expired"))
			p.linger(w, r, lingerTime)
		}
	}
}

// order lets an order through that a form of this session gives, from one who may.
func (p *Page) order(role Role, next http.HandlerFunc) http.HandlerFunc {
	return p.inside(false, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			p.fail(w, http.StatusBadRequest, "bad_form")
			return
		}
		s := sessionOf(r)
		switch {
		case !same(r.PostForm.Get("csrf"), s.csrf):
			p.fail(w, http.StatusForbidden, "other_session")
		case role == Full && s.role != Full:
			p.fail(w, http.StatusForbidden, "only_look")
		default:
			next(w, r)
		}
	})
}
