package page

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// Role says what a visitor may do.
type Role string

// The roles.
const (
	Full Role = "full"
	Look Role = "look" // sees everything, changes nothing
)

// ErrNoPassword says that there is no file with a password.
var ErrNoPassword = errors.New(`no password is set: "tandem page password" sets one`)

const (
	maxPasswords = 4 << 10 // bytes of the file
	minPassword  = 8       // bytes
	maxPassword  = 72      // bytes: bcrypt takes no more
	cost         = bcrypt.DefaultCost
	maxCost      = 14 // of a hash in the file: more would keep a small device busy for minutes
)

// SetPassword durably writes the hash of a role's password into file, which only its
// owner can read; the other role's stays. After an error or a power cut the file is as
// it was.
func SetPassword(file string, role Role, password []byte) error {
	switch {
	case len(password) < minPassword:
		return fmt.Errorf("the password has %d bytes: expected at least %d", len(password), minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("the password has %d bytes: expected at most %d", len(password), maxPassword)
	}
	hashes, err := readPasswords(file)
	if err != nil && !errors.Is(err, ErrNoPassword) {
		return err
	}
	hash, err := bcrypt.GenerateFromPassword(password, cost)
	if err != nil {
		return err
	}
	if hashes == nil {
		hashes = map[Role][]byte{}
	}
	hashes[role] = hash
	var text strings.Builder
	for _, r := range []Role{Full, Look} {
		if h := hashes[r]; h != nil {
			fmt.Fprintf(&text, "%s:%s\n", r, h)
		}
	}
	return writePrivate(file, []byte(text.String()))
}

// writePrivate durably writes a file of mode 0600, whole or not at all.
func writePrivate(file string, data []byte) error {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, ".page-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readPasswords reads the hashes. The error wraps ErrNoPassword where there is none.
func readPasswords(file string) (map[Role][]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, ErrNoPassword)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %s: expected a file that only its owner can read (chmod 600)", file, info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPasswords+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPasswords {
		return nil, fmt.Errorf("%s: longer than %d bytes: expected hashes of passwords", file, maxPasswords)
	}
	hashes := map[Role][]byte{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		name, hash, _ := strings.Cut(lines.Text(), ":")
		c, err := bcrypt.Cost([]byte(hash))
		switch role := Role(name); {
		case role != Full && role != Look:
			return nil, fmt.Errorf(`%s:%d: expected "full:" or "look:" and a hash`, file, n)
		case err != nil || c > maxCost:
			return nil, fmt.Errorf("%s:%d: no bcrypt hash with a cost of at most %d", file, n, maxCost)
		default:
			hashes[role] = []byte(hash)
		}
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("%s: %w", file, ErrNoPassword)
	}
	return hashes, nil
}

// Bounds of sessions and of attempts to log in.
const (
	sessionIdle = 15 * time.Minute
	sessionLife = 8 * time.Hour
	maxSessions = 16
	maxVisitors = 256 // whose attempts are remembered
	tries       = 5   // of one visitor, then one more every tryEvery
	tryEvery    = 30 * time.Second
	allTries    = 20 // of all visitors, then one more every allEvery
	allEvery    = 3 * time.Second
)

// session is one that logged in.
type session struct {
	by    netip.Addr
	role  Role
	hash  []byte // of the password it came in with: a new one ends it
	csrf  string
	since time.Time
	seen  time.Time
}

// doors lets visitors in.
type doors struct {
	file   string
	now    func() time.Time
	random io.Reader

	hashing sync.Mutex // one bcrypt at a time
	mu      sync.Mutex
	open    map[[sha256.Size]byte]*session
	visitor map[netip.Prefix]*rate.Limiter
	all     *rate.Limiter
}

func newDoors(file string, now func() time.Time, random io.Reader) *doors {
	if random == nil {
		random = rand.Reader
	}
	return &doors{
		file: file, now: now, random: random, open: map[[sha256.Size]byte]*session{},
		visitor: map[netip.Prefix]*rate.Limiter{}, all: rate.NewLimiter(rate.Every(allEvery), allTries),
	}
}

// The reasons why somebody is not let in.
var (
	errTooMany = errors.New("too many attempts")
	errWrong   = errors.New("wrong password")
)

// enter lets in who knows a password, and returns the session with its secret.
func (d *doors) enter(remote string, password []byte) (*session, string, error) {
	if !d.allowed(network(remote)) || !d.hashing.TryLock() {
		return nil, "", errTooMany
	}
	defer d.hashing.Unlock()
	hashes, err := readPasswords(d.file)
	if err != nil {
		return nil, "", err
	}
	for _, role := range []Role{Full, Look} {
		if hash := hashes[role]; hash != nil && bcrypt.CompareHashAndPassword(hash, password) == nil {
			return d.begin(remote, role, hash)
		}
	}
	return nil, "", errWrong
}

// allowed counts an attempt, and reports whether it may be made.
func (d *doors) allowed(who netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	l := d.visitor[who]
	if l == nil {
		if len(d.visitor) >= maxVisitors { // those who have all their tries back are as good as new
			for k, v := range d.visitor {
				if v.TokensAt(now) >= tries {
					delete(d.visitor, k)
				}
			}
			if len(d.visitor) >= maxVisitors {
				return false
			}
		}
		l = rate.NewLimiter(rate.Every(tryEvery), tries)
		d.visitor[who] = l
	}
	return l.AllowN(now, 1) && d.all.AllowN(now, 1)
}

// secret is 32 random bytes.
func (d *doors) secret() (string, error) {
	var b [32]byte
	_, err := io.ReadFull(d.random, b[:])
	return hex.EncodeToString(b[:]), err
}

func (d *doors) begin(remote string, role Role, hash []byte) (*session, string, error) {
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return nil, "", err
	}
	token, err := d.secret()
	if err != nil {
		return nil, "", err
	}
	csrf, err := d.secret()
	if err != nil {
		return nil, "", err
	}
	now := d.now()
	s := &session{by: addr.Addr(), role: role, hash: hash, csrf: csrf, since: now, seen: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire(now)
	for len(d.open) >= maxSessions {
		var oldest [sha256.Size]byte
		var at time.Time
		for k, o := range d.open {
			if at.IsZero() || o.seen.Before(at) {
				oldest, at = k, o.seen
			}
		}
		delete(d.open, oldest)
	}
	d.open[sha256.Sum256([]byte(token))] = s
	return s, token, nil
}

func (d *doors) expire(now time.Time) {
	for k, s := range d.open {
		if over(now, s.seen, sessionIdle) || over(now, s.since, sessionLife) {
			delete(d.open, k)
		}
	}
}

// over reports whether a time span has passed since; a clock that went back ends it, too.
func over(now, since time.Time, span time.Duration) bool {
	d := now.Sub(since)
	return d >= span || d < 0
}

// find returns the session that a secret stands for, where it comes from the address
// that logged in, has not expired, and its password is still the one; else nil. active
// says that a person did something, so that the session lasts.
func (d *doors) find(token, remote string, active bool) *session {
	hashes, err := readPasswords(d.file)
	if err != nil {
		return nil
	}
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	d.expire(now)
	s := d.open[sha256.Sum256([]byte(token))]
	if s == nil || s.by != addr.Addr() || !bytes.Equal(hashes[s.role], s.hash) {
		return nil
	}
	if active {
		s.seen = now
	}
	return s
}

// leave ends a session.
func (d *doors) leave(token string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, sha256.Sum256([]byte(token)))
}

// same compares secrets in a time that tells nothing of them.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
