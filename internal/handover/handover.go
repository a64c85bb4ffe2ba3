// Package handover hands an open file over with an HTTP request on a unix socket.
// Whoever serves the request reads what the caller has opened, also where it could
// not open that itself: in the sandbox of a service, /tmp is another one.
package handover

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
)

// Offer returns a connection on which f is handed over with the first bytes that
// are written. f stays the caller's, and has to stay open until then.
func Offer(c *net.UnixConn, f *os.File) net.Conn { return &offering{UnixConn: c, file: f} }

type offering struct {
	*net.UnixConn
	file *os.File // nil once it was handed over
}

// Write implements net.Conn.
func (o *offering) Write(b []byte) (int, error) {
	if o.file == nil || len(b) == 0 {
		return o.UnixConn.Write(b)
	}
	// File.Fd would make reads of the caller's file block.
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var sent error
	err = raw.Control(func(fd uintptr) {
		n, _, sent = o.WriteMsgUnix(b, syscall.UnixRights(int(fd)), nil)
	})
	if err == nil {
		err = sent
	}
	if err != nil {
		return n, err
	}
	o.file = nil
	if n < len(b) {
		rest, err := o.UnixConn.Write(b[n:])
		return n + rest, err
	}
	return n, nil
}

// Listen returns a listener whose connections take files that are handed over.
// With ConnContext of an http.Server set to Context, handlers find them.
func Listen(l *net.UnixListener) net.Listener { return listener{l} }

type listener struct{ *net.UnixListener }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &taking{UnixConn: c}, nil
}

// taking is a connection with the file that came last.
type taking struct {
	*net.UnixConn
	mu   sync.Mutex
	file *os.File
}

// Read implements net.Conn.
func (t *taking) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4)) // of more than one file the kernel drops the rest
	n, k, _, _, err := t.ReadMsgUnix(b, oob)
	if k > 0 {
		t.receive(oob[:k])
	}
	return max(n, 0), err // a failed one has -1
}

func (t *taking) receive(oob []byte) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			t.put(os.NewFile(uintptr(fd), "handed over"))
		}
	}
}

func (t *taking) put(f *os.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		t.file.Close()
	}
	t.file = f
}

// Close implements net.Conn.
func (t *taking) Close() error {
	t.put(nil)
	return t.UnixConn.Close()
}

type key struct{}

// Context adds to the context of a connection what File looks for.
func Context(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*taking); ok {
		return context.WithValue(ctx, key{}, t)
	}
	return ctx
}

// File returns the file that was handed over with a request, which is the
// caller's to close then; nil if there is none.
func File(ctx context.Context) *os.File {
	t, ok := ctx.Value(key{}).(*taking)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.file
	t.file = nil
	return f
}
