// Package page is the technician's page: HTML that the device renders itself, of
// what the agent tells over its interface, with buttons for what that can do.
//
// It knows no more of the agent than the handler of its local interface. Each order
// goes through that, so that a button and a command do the same, under the same locks
// and into the same history.
package page

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"tandem/internal/config"
)

// Options is what a Page works with. Nothing may be missing.
type Options struct {
	Config config.Page
	State  string       // the agent's directory, where a certificate of the page's own is kept
	API    http.Handler // the agent's interface, as docs/openapi.json has it
	Device string       // its name
	Log    *logrus.Logger
	Now    func() time.Time
	Random io.Reader
	// After gives a channel that receives once d has passed, and what stops it.
	After func(d time.Duration) (c <-chan time.Time, stop func())
}

func (o *Options) validate() error {
	missing := ""
	switch {
	case !o.Config.Listen.IsValid():
		missing = "Config.Listen"
	case o.Config.PasswordFile == "":
		missing = "Config.PasswordFile"
	case o.API == nil:
		missing = "API"
	case o.Log == nil:
		missing = "Log"
	case o.Now == nil:
		missing = "Now"
	case o.Random == nil:
		missing = "Random"
	case o.After == nil:
		missing = "After"
	default:
		return nil
	}
	return fmt.Errorf("page.Options: %s is missing", missing)
}

// Page is the page.
type Page struct {
	o        Options
	texts    map[string]string // of the page, once somebody wants to see it
	doors    *doors
	tasks    *tasks
	keepAt   sync.Mutex // one upload at a time
	secure   bool       // it is served by TLS
	leaf     *tls.Certificate
	perPeer  int
	conns    int
	pace     pace
	retrying time.Duration
}

// Bounds of what visitors can take from the device.
const (
	maxConns     = 32 // connections
	maxConnsPeer = 16 // of one address
	maxHeader    = 16 << 10
	maxForm      = 64 << 10 // bytes of a form, an upload excepted
	headerTime   = 10 * time.Second
	formTime     = 15 * time.Second // for a request, an upload excepted
	answerTime   = 30 * time.Second
	idleTime     = 60 * time.Second
	lingerTime   = 60 * time.Second // for what is left of an upload that was refused
	lingerLong   = 10 * time.Minute // of somebody's who may give one
	retryTime    = 10 * time.Second // until it is tried again to listen
)

// New makes a Page.
func New(o Options) (*Page, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Page{o: o, conns: maxConns, perPeer: maxConnsPeer, retrying: retryTime, pace: pace{stall: 30 * time.Second, slack: time.Minute, rate: 4 << 10}}
	p.secure = o.Config.Secure()
	p.doors = newDoors(o.Config.PasswordFile, o.Now, o.Random)
	p.tasks = &tasks{api: o.API, now: o.Now, text: p.text}
	return p, nil
}

// Run serves the page until ctx ends. While it cannot, because there is no password
// or the address is not there yet, it says so once and tries again.
func (p *Page) Run(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		err := p.serve(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if s := err.Error(); s != told {
			p.o.Log.Warn("the page is not served: " + s)
			told = s
		}
		c, stop := p.o.After(p.retrying)
		select {
		case <-ctx.Done():
		case <-c:
		}
		stop()
	}
}

// serve listens and answers until ctx ends.
func (p *Page) serve(ctx context.Context) error {
	if _, err := readPasswords(p.o.Config.PasswordFile); err != nil {
		return err
	}
	if p.texts == nil {
		texts, err := readTexts()
		if err != nil {
			return err
		}
		p.texts = texts
	}
	plain, err := net.Listen("tcp", p.o.Config.Listen.String())
	if err != nil {
		return err
	}
	var l net.Listener = newBounded(plain, p.conns, p.perPeer)
	defer l.Close()
	scheme := "http"
	if p.secure {
		scheme = "https"
		cert, err := certificate(p.o.Config, p.o.State, p.o.Random)
		if err != nil {
			return err
		}
		p.leaf = &cert
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	log := p.o.Log.WithField("address", scheme+"://"+plain.Addr().String())
	if p.leaf != nil {
		log = log.WithField("fingerprint", fingerprint(p.leaf.Certificate[0]))
	}
	log.Info("the page is served")
	s := p.server()
	end := context.AfterFunc(ctx, func() { s.Close() })
	defer end()
	err = s.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// server is what answers.
func (p *Page) server() *http.Server {
	return &http.Server{
		Handler: p.routes(), ReadHeaderTimeout: headerTime, ReadTimeout: formTime, WriteTimeout: answerTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
	}
}

// bounded is a listener that turns away whoever would be one too many.
type bounded struct {
	net.Listener
	all, peer int
	mu        sync.Mutex
	open      map[netip.Prefix]int
	n         int
}

func newBounded(l net.Listener, all, peer int) *bounded {
	return &bounded{Listener: l, all: all, peer: peer, open: map[netip.Prefix]int{}}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := network(c.RemoteAddr().String())
		b.mu.Lock()
		ok := b.n < b.all && b.open[who] < b.peer
		if ok {
			b.n++
			b.open[who]++
		}
		b.mu.Unlock()
		if ok {
			return &counted{Conn: c, end: sync.OnceFunc(func() { b.gone(who) })}, nil
		}
		c.Close()
	}
}

func (b *bounded) gone(who netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	if b.open[who]--; b.open[who] <= 0 {
		delete(b.open, who)
	}
}

type counted struct {
	net.Conn
	end func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.end()
	return c.Conn.Close()
}

// network is who counts as one visitor: an address, of IPv6 the network that one
// subscriber has.
func network(remote string) netip.Prefix {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	pre, _ := ip.Prefix(bits) // bits fit
	return pre
}
