package ota

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/backup/record"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/ota/fault"
	"tandem/ota/internal/statedir"
	"tandem/packaging/trust"
	"tandem/packaging/tuf"
)

// The limits on metadata, in bytes: a longer document is not read to its end.
// Where the document that names another tells its length, that is the limit, if
// it is less.
//
//	role       limit      what it is enough for
//	root       trust.MaxRoot, 512 KiB: hundreds of keys, or post-quantum ones
//	timestamp  16 KiB     it names one file; signatures of a dozen keys
//	snapshot   256 KiB    a repository of ours names one file; there is room for a
//	                      thousand delegated roles
//	targets    5 MB       about 10,000 releases, delegated roles included. It is held
//	                      in memory while it is verified, several times over, so
//	                      that more would not suit a small device; a publisher
//	                      drops old releases
const (
	maxTimestamp = 16 << 10
	maxSnapshot  = 256 << 10
	maxTargets   = 5_000_000
	maxPoll      = 4096 // our own file
)

// maxRotations bounds how many roots are followed in one run. A device that was
// offline for longer goes on from there at its next poll.
const maxRotations = 256

// trustDir holds the trusted metadata, below the agent's state directory:
//
//	N.root.json      the roots that followed the provisioned one
//	timestamp.json   the others as they were last trusted
//	snapshot.json
//	targets.json
//	SHA256.targets.json  of delegated roles, by the SHA-256 of the role's name
//	poll.json        ETag and time
//	time.json        the time once more: damage to one of the two takes no time back
const trustDir = "trust"

const (
	pollKind = "poll"
	pollName = "poll.json"
	timeName = "time.json"
	maxETag  = 512 // bytes; a longer name is not remembered
)

// Poll is what is remembered of the last successful poll.
type Poll struct {
	// Time is the latest time at which metadata was trusted. It only moves forward.
	Time time.Time `json:"time"`
	// ETag is what the server called the timestamp metadata whose digest is
	// Timestamp; "" if it had no name for it.
	ETag      string        `json:"etag,omitempty"`
	Timestamp digest.SHA256 `json:"timestamp"`
}

// Store keeps trusted metadata. Every root in it is verified, link by link, from
// the one that the device was provisioned with, each time the store is opened:
// whatever happens to the files, the device trusts what it was provisioned
// with, or what that leads to. A damaged file counts as missing; one that cannot be
// read just now does not, and the store takes nothing new then: see Err.
type Store struct {
	By   record.Author
	fs   fsys.FS
	log  *logrus.Logger
	root *trust.Root // in force
	// latest is the latest time at which metadata was trusted since the start.
	latest time.Time
	// unread is why something in it could not be read that may well be there.
	unread error
}

// OpenStore opens the store below fs, the agent's state directory. It reads
// only. provisioned is the root that the device came with.
func OpenStore(fs fsys.FS, provisioned *trust.Root, log *logrus.Logger) *Store {
	s := &Store{fs: fs, log: log, root: provisioned}
	for range maxRotations {
		name := rootName(s.root.Version() + 1)
		data := s.read(name, trust.MaxRoot)
		if data == nil {
			break
		}
		next, err := s.root.Follow(data)
		if err != nil {
			log.WithError(err).Warnf("%s: ignored", s.path(name))
			break
		}
		s.root = next
	}
	return s
}

// Root returns the root in force.
func (s *Store) Root() *trust.Root { return s.root }

// Err returns why something in the store could not be read that may well be there, for
// want of memory or descriptors; nil if all was. Newer metadata may have been trusted
// than what the store gives, so nothing is to be trusted by it.
func (s *Store) Err() error { return s.unread }

// missed notes an error of reading, if it says nothing about what there is.
func (s *Store) missed(err error) {
	if s.unread == nil && fsys.IsTransient(err) {
		s.unread = fmt.Errorf("trusted metadata cannot be read just now: %w", err)
	}
}

// AddRoot makes data the root in force, if it follows from the one that is. The
// error of one that does not wraps trust.ErrUntrusted.
//
// Where it takes a key from the timestamp or the snapshot role, the stored
// metadata of both goes: whoever had that key may have signed version numbers
// so high that no honest repository reaches them again (a fast-forward attack).
//
// After success data is durable. After an error or a power cut the root in
// force is the old one or data; with the old one, timestamp and snapshot may be
// gone already, so that no cut leaves them to be trusted under the new one.
func (s *Store) AddRoot(data []byte) error {
	next, err := s.root.Follow(data)
	if err != nil {
		return err
	}
	if withdrawn(s.root, next, metadata.TIMESTAMP) || withdrawn(s.root, next, metadata.SNAPSHOT) {
		if err := s.forget(metadata.TIMESTAMP, metadata.SNAPSHOT); err != nil {
			return err
		}
	}
	if err := s.write(rootName(next.Version()), data); err != nil {
		return err
	}
	s.root = next
	return nil
}

// withdrawn reports whether a key that could sign for a role no longer can.
func withdrawn(old, next *trust.Root, role string) bool {
	still := publicKeys(next, role)
	for key := range publicKeys(old, role) {
		if !still[key] {
			return true
		}
	}
	return false
}

// publicKeys returns the keys of a role themselves: their ids are only what a
// root calls them.
func publicKeys(r *trust.Root, role string) map[string]bool {
	keys := map[string]bool{}
	signed := &r.Metadata().Signed
	for _, id := range signed.Roles[role].KeyIDs {
		keys[signed.Keys[id].Value.PublicKey] = true
	}
	return keys
}

// forget durably removes the stored metadata of roles.
func (s *Store) forget(roles ...string) error {
	removed := false
	for _, role := range roles {
		name := path.Join(trustDir, role+".json")
		if _, err := s.fs.Lstat(name); fsys.IsNotExist(err) {
			continue
		}
		if err := fsys.RemoveAll(s.fs, name); err != nil {
			return unkept(err)
		}
		s.log.Infof("%s: forgotten, as a key of its role was withdrawn", s.path(role+".json"))
		removed = true
	}
	if !removed {
		return nil
	}
	return unkept(s.fs.SyncDir(trustDir))
}

// Document returns the stored metadata of a role, as it lies on the disk: the
// caller verifies it. nil if there is none.
func (s *Store) Document(role string) []byte { return s.read(documentName(role), limitOf(role)) }

// documentName returns the file of a role's metadata. What a delegated role is
// called its publisher chooses: it says nothing to a file system.
func documentName(role string) string {
	if slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role) {
		return role + ".json"
	}
	return digest.Of([]byte(role)).String() + ".targets.json"
}

var delegatedName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}\.targets\.json(\.tmp)?$`) })

// keepDelegated removes the metadata of delegated roles but those named. It is
// no error where that fails: the next time removes them.
func (s *Store) keepDelegated(roles []string) {
	entries, err := s.fs.ReadDir(trustDir)
	if err != nil {
		return
	}
	keep := map[string]bool{}
	for _, role := range roles {
		keep[documentName(role)] = true
	}
	for _, e := range entries {
		if !delegatedName().MatchString(e.Name) || keep[e.Name] {
			continue
		}
		if err := fsys.RemoveAll(s.fs, path.Join(trustDir, e.Name)); err != nil {
			s.log.WithError(err).Debug("metadata of a role that is not delegated to any more stays")
		}
	}
}

// saveDocument durably replaces the metadata of a role, which was found valid
// at the reference time at. What is there already is not written again.
//
// After an error or a power cut the old or the new metadata is there, whole;
// with the new one the reference time is at least at.
func (s *Store) saveDocument(role string, data []byte, at time.Time) error {
	if bytes.Equal(s.Document(role), data) {
		return nil
	}
	if p := s.poll(); at.After(p.Time) {
		p.Time = at
		if err := s.savePoll(p); err != nil {
			return err
		}
	}
	return s.write(documentName(role), data)
}

// poll returns what is remembered of the last successful poll.
func (s *Store) poll() Poll {
	p, whole := s.readPoll(pollName)
	if !whole {
		known, _ := s.readPoll(timeName)
		p.Time = known.Time
	}
	return p
}

// readPoll reads a file that savePoll wrote, and reports whether it could.
func (s *Store) readPoll(name string) (p Poll, whole bool) {
	whole, err := record.ReadJSON(s.fs, pollKind, path.Join(trustDir, name), maxPoll, &p)
	if err != nil {
		s.missed(err)
		s.log.WithError(err).Warn("what is remembered of the last poll cannot be used: ignored")
		return Poll{}, false
	}
	return p, whole
}

// savePoll durably remembers a poll.
//
// After an error or a power cut the old or the new one is remembered.
func (s *Store) savePoll(p Poll) error {
	if known, whole := s.readPoll(timeName); !whole || !known.Time.Equal(p.Time) {
		if err := s.writePoll(timeName, Poll{Time: p.Time}); err != nil {
			return err
		}
	}
	return s.writePoll(pollName, p)
}

func (s *Store) writePoll(name string, p Poll) error {
	data, err := s.By.Seal(pollKind, p)
	if err != nil {
		return err
	}
	return s.write(name, data)
}

// timeStep is by how much the reference time must have moved before it is
// written for its own sake: flash wears out.
const timeStep = time.Hour

// remember keeps what was learned from a poll in which everything was trusted
// at next.Time. It is written, durably, if it is more than a new time, or that
// is timeStep after the one written last.
//
// No time is kept at which metadata was refused: nothing but the clock vouches
// for it, and one that was wrong once would lock the device out for good.
func (s *Store) remember(next Poll) error {
	if len(next.ETag) > maxETag { // the next poll asks for all of it
		next.ETag = ""
	}
	if next.Time.After(s.latest) {
		s.latest = next.Time
	}
	old := s.poll()
	if s.unread != nil {
		return s.unread
	}
	if old.ETag == next.ETag && old.Timestamp == next.Timestamp && next.Time.Sub(old.Time) < timeStep {
		return nil
	}
	return s.savePoll(next)
}

// RefTime returns the time by which metadata is judged: the latest of the clock,
// the time this program was built and the last time at which metadata was
// trusted. A device without a clock is so never further back than it was; after
// a restart by less than timeStep, and never before the time at which any
// stored metadata was accepted. Only setBack makes an exception.
func (s *Store) RefTime(clock, built time.Time) time.Time {
	return trust.ReferenceTime(clock, built, s.poll().Time, s.latest).UTC()
}

// setBack durably makes t the remembered time, which is later for a reason that
// was found wrong. After an error or a power cut it is the old one or t.
func (s *Store) setBack(t time.Time) error {
	p := s.poll()
	p.Time = t
	if err := s.savePoll(p); err != nil {
		return err
	}
	s.latest = t
	return nil
}

func rootName(version int64) string { return fmt.Sprintf("%d.root.json", version) }

func limitOf(role string) int64 {
	switch role {
	case metadata.TIMESTAMP:
		return maxTimestamp
	case metadata.SNAPSHOT:
		return maxSnapshot
	}
	return maxTargets
}

func (s *Store) path(name string) string { return s.fs.Path(path.Join(trustDir, name)) }

// read returns the content of a file, or nil: what cannot be read is fetched again.
func (s *Store) read(name string, limit int64) []byte {
	data, err := fsys.ReadFile(s.fs, path.Join(trustDir, name), limit)
	if err != nil {
		s.missed(err)
		if !fsys.IsNotExist(err) {
			s.log.WithError(err).Warn("trusted metadata cannot be read: fetched again")
		}
		return nil
	}
	return data
}

// write durably replaces a file of the store. Whatever else lies in its place
// is damage, and goes.
func (s *Store) write(name string, data []byte) error {
	name = path.Join(trustDir, name)
	err := func() error {
		if s.unread != nil {
			return s.unread
		}
		if err := statedir.MakeDir(s.fs, s.log, trustDir, 0o755); err != nil {
			return err
		}
		for _, n := range []string{name, name + ".tmp"} {
			if err := statedir.Evict(s.fs, s.log, n, fsys.TypeFile); err != nil {
				return err
			}
		}
		return fsys.WriteFile(s.fs, name, data, 0o644)
	}()
	return unkept(err)
}

// unkept says what an error of the disk came in the way of.
func unkept(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("keep trusted metadata: %w", fault.Unwritable(err))
}

// newTrusted starts the client workflow from a root that is trusted already.
func newTrusted(root *trust.Root, ref time.Time) (*trustedmetadata.TrustedMetadata, error) {
	tm, err := trustedmetadata.New(root.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", trust.ErrRoot, err)
	}
	tm.RefTime = ref
	return tm, nil
}

// wellFormed reports whether go-tuf can be given a document that nobody vouches
// for yet. On its way to the signatures it takes for granted that nothing is
// null and that a timestamp names the snapshot; what it cannot cope with in
// keys, trust.Root does not let pass.
func wellFormed(role string, data []byte) error {
	switch role {
	case metadata.TIMESTAMP:
		doc, err := tuf.Decode[metadata.TimestampType](data)
		if err != nil {
			return fmt.Errorf("%w: %w", tuf.ErrMalformed, err)
		}
		return names(doc.Signed.Meta, "snapshot.json")
	case metadata.SNAPSHOT:
		doc, err := tuf.Decode[metadata.SnapshotType](data)
		if err != nil {
			return fmt.Errorf("%w: %w", tuf.ErrMalformed, err)
		}
		return names(doc.Signed.Meta, "targets.json")
	}
	if err := tuf.Check(data); err != nil {
		return fmt.Errorf("%w: %w", tuf.ErrMalformed, err)
	}
	return nil
}

func names(meta map[string]*metadata.MetaFiles, file string) error {
	if meta[file] == nil {
		return fmt.Errorf("%w: it does not name %s", tuf.ErrMalformed, file)
	}
	return nil
}

// Expiry is until when metadata of a role is valid.
type Expiry struct {
	Role    string
	Expires time.Time
}

// Expiries returns until when what was trusted last is valid: the root, and the
// metadata that is stored, delegated roles included. What is not there is left out.
func (s *Store) Expiries() []Expiry {
	all := []Expiry{{metadata.ROOT, s.root.Expires()}}
	roles := []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS}
	if snapshot, err := tuf.Decode[metadata.SnapshotType](s.Document(metadata.SNAPSHOT)); err == nil {
		var delegated []string
		for name := range snapshot.Signed.Meta {
			if role := strings.TrimSuffix(name, ".json"); role != metadata.TARGETS {
				delegated = append(delegated, role)
			}
		}
		slices.Sort(delegated)
		roles = append(roles, delegated...)
	}
	for _, role := range roles {
		var h head
		if data := s.Document(role); data != nil && json.Unmarshal(data, &h) == nil && !h.Signed.Expires.IsZero() {
			all = append(all, Expiry{role, h.Signed.Expires})
		}
	}
	return all
}
