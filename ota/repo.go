package ota

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"tandem/internal/digest"
	"tandem/packaging/repository"
	"tandem/packaging/trust"
)

// timeStep is by how much the remembered time must move before it is written
// for its own sake: flash wears out.
const timeStep = 24 * time.Hour

// RepoOptions is what a Repo works with. All but Built and Stall are needed.
type RepoOptions struct {
	URL       string // of the repository; http, https or file
	Client    *http.Client
	Store     *Store
	Downloads *Downloader
	Now       func() time.Time
	Built     time.Time     // when this program was built; it cannot be earlier than that
	Stall     time.Duration // how long a server may be silent in the middle of a document; 0 is 30 seconds
	Log       *logrus.Logger
}

// Repo is the Source of a TUF repository.
type Repo struct {
	o    RepoOptions
	base *url.URL
}

var _ Source = (*Repo)(nil)

// NewRepo makes the Source of the repository at o.URL.
func NewRepo(o RepoOptions) (*Repo, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("address of the repository: %w", err)
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	return &Repo{o: o, base: base}, nil
}

// Decision is the answer to which release a device should have.
type Decision struct {
	Best   *Offer // nil: nothing newer
	Passed []Passed
}

// Check implements Source. What it changes on the disk is said at Consider.
func (r *Repo) Check(ctx context.Context, d Device) (*Offer, error) {
	dec, err := r.Consider(ctx, d)
	return dec.Best, err
}

// Consider is Check, and tells why the other releases were passed over.
//
// While nothing has changed on the server it costs one conditional request.
// Metadata that was verified is durable before it is used for more; after an
// error or a power cut the store holds what was trusted before or something
// newer, never something older, and the next call goes on from there.
func (r *Repo) Consider(ctx context.Context, d Device) (Decision, error) {
	targets, err := r.refresh(ctx)
	if err != nil {
		return Decision{}, fmt.Errorf("check for a release: %w", err)
	}
	offers, err := r.offers(targets)
	if err != nil {
		return Decision{}, fmt.Errorf("check for a release: %w", err)
	}
	best, passed := Choose(offers, d)
	return Decision{best, passed}, nil
}

// Fetch implements Source. What it changes on the disk is said at
// Downloader.Get.
func (r *Repo) Fetch(ctx context.Context, o Offer, p Progress) (string, error) {
	file, err := r.o.Downloads.Get(ctx, File{
		URL: r.address("targets", o.SHA256.String()+"."+o.Name), Size: o.Size, SHA256: o.SHA256,
	}, p)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", o.Name, err)
	}
	return file, nil
}

// address gives the URL of a file of the repository.
func (r *Repo) address(dir, name string) string {
	return r.base.JoinPath(dir, url.PathEscape(name)).String()
}

// shown is address for a message, without the password.
func (r *Repo) shown(name string) string {
	return r.base.JoinPath("metadata", url.PathEscape(name)).Redacted()
}

// stored is what the store holds, verified.
type stored struct {
	targets *metadata.Metadata[metadata.TargetsType] // nil unless all of it is there, fits together and has not expired
	etag    string                                   // of its timestamp
}

// refresh gives the targets metadata that is in force.
func (r *Repo) refresh(ctx context.Context) (*metadata.Metadata[metadata.TargetsType], error) {
	poll := r.o.Store.Poll()
	ref := r.o.Store.RefTime(r.o.Now(), r.o.Built)
	have := r.load(poll, ref)
	etag := ""
	if have.targets != nil {
		etag = have.etag
	}
	timestamp, err := r.get(ctx, r.address("metadata", "timestamp.json"), maxTimestamp, etag)
	if err != nil {
		return nil, err
	}
	if timestamp.status == http.StatusNotModified {
		r.o.Log.Debug("the repository has not changed")
		return have.targets, r.remember(poll, Poll{Time: ref, ETag: poll.ETag, Timestamp: poll.Timestamp})
	}
	// The root goes first: it says whose timestamp to believe. When it has
	// changed, the timestamp at hand may be one of the time before.
	rotated, err := r.followRoots(ctx)
	if err != nil {
		return nil, err
	}
	if rotated {
		if timestamp, err = r.get(ctx, r.address("metadata", "timestamp.json"), maxTimestamp, ""); err != nil {
			return nil, err
		}
	}
	u := &update{Repo: r, ref: ref}
	if u.trusted, err = newTrusted(r.o.Store.Root(), ref); err != nil {
		return nil, err
	}
	if err := u.timestamp(timestamp.body); err != nil {
		return nil, err
	}
	if err := u.snapshot(ctx); err != nil {
		return nil, err
	}
	targets, err := u.targets(ctx)
	if err != nil {
		return nil, err
	}
	next := Poll{Time: ref, Timestamp: digest.Of(timestamp.body)}
	// An ETag is remembered only for the very bytes that are stored: for
	// others "not modified" would say nothing.
	if bytes.Equal(r.o.Store.Document(metadata.TIMESTAMP), timestamp.body) {
		next.ETag = timestamp.etag
	}
	return targets, r.remember(poll, next)
}

// remember writes what was learned from a poll, if it is worth a write.
func (r *Repo) remember(old, next Poll) error {
	if old.ETag == next.ETag && old.Timestamp == next.Timestamp && next.Time.Sub(old.Time) < timeStep {
		return nil
	}
	return r.o.Store.SavePoll(next)
}

// load verifies what the store holds.
func (r *Repo) load(poll Poll, ref time.Time) stored {
	tm, err := newTrusted(r.o.Store.Root(), ref)
	if err != nil {
		return stored{}
	}
	ts, sn, tg := r.o.Store.Document(metadata.TIMESTAMP), r.o.Store.Document(metadata.SNAPSHOT), r.o.Store.Document(metadata.TARGETS)
	if ts == nil || sn == nil || tg == nil || poll.ETag == "" || poll.Timestamp != digest.Of(ts) {
		return stored{}
	}
	err = guard(func() error {
		if _, err := tm.UpdateTimestamp(ts); err != nil {
			return err
		}
		if _, err := tm.UpdateSnapshot(sn, false); err != nil {
			return err
		}
		_, err := tm.UpdateTargets(tg)
		return err
	})
	if err != nil {
		r.o.Log.WithError(err).Debug("stored metadata is not enough")
		return stored{}
	}
	return stored{targets: tm.Targets[metadata.TARGETS], etag: poll.ETag}
}

// followRoots takes over each root that follows the one in force.
func (r *Repo) followRoots(ctx context.Context) (rotated bool, err error) {
	for range maxRotations {
		name := rootName(r.o.Store.Root().Version() + 1)
		// Object stores that may not be listed answer 403 for what is not there.
		doc, err := r.get(ctx, r.address("metadata", name), trust.MaxRoot, "", http.StatusNotFound, http.StatusForbidden, http.StatusGone)
		if err != nil {
			return rotated, err
		}
		if doc.status != http.StatusOK {
			return rotated, nil
		}
		if err := r.o.Store.AddRoot(doc.body); err != nil {
			if errors.Is(err, trust.ErrUntrusted) {
				return rotated, r.refuseRoot(name, err)
			}
			return rotated, err
		}
		r.o.Log.Infof("trusting %s from now on", name)
		rotated = true
	}
	return rotated, nil
}

// update is one run through the client workflow, from the root downwards.
type update struct {
	*Repo
	trusted *trustedmetadata.TrustedMetadata
	ref     time.Time
}

// timestamp verifies the timestamp that the server sent, against the stored one.
func (u *update) timestamp(data []byte) error {
	u.recall(metadata.TIMESTAMP, func(old []byte) error { _, err := u.trusted.UpdateTimestamp(old); return err })
	err := u.verify(metadata.TIMESTAMP, data, func() error { _, err := u.trusted.UpdateTimestamp(data); return err })
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		// The stored one stays.
		if !u.trusted.Timestamp.Signed.IsExpired(u.ref) {
			return nil
		}
		err = &metadata.ErrExpiredMetadata{Msg: "timestamp.json is expired"}
	}
	if err != nil {
		return u.refuse("timestamp.json", metadata.TIMESTAMP, data, err)
	}
	return u.o.Store.SaveDocument(metadata.TIMESTAMP, data)
}

// snapshot gets the snapshot that the timestamp names.
func (u *update) snapshot(ctx context.Context) error {
	meta := u.trusted.Timestamp.Signed.Meta["snapshot.json"]
	old := u.recall(metadata.SNAPSHOT, func(old []byte) error { _, err := u.trusted.UpdateSnapshot(old, true); return err })
	if old != nil && meta.VerifyLengthHashes(old) == nil {
		return nil
	}
	name := strconv.FormatInt(meta.Version, 10) + ".snapshot.json"
	doc, err := u.get(ctx, u.address("metadata", name), limitFor(meta, maxSnapshot), "")
	if err != nil {
		return err
	}
	err = u.verify(metadata.SNAPSHOT, doc.body, func() error { _, err := u.trusted.UpdateSnapshot(doc.body, false); return err })
	if err != nil {
		return u.refuse(name, metadata.SNAPSHOT, doc.body, err)
	}
	return u.o.Store.SaveDocument(metadata.SNAPSHOT, doc.body)
}

// targets gets the targets metadata that the snapshot names.
func (u *update) targets(ctx context.Context) (*metadata.Metadata[metadata.TargetsType], error) {
	meta := u.trusted.Snapshot.Signed.Meta["targets.json"]
	if len(meta.Hashes["sha256"]) == 0 {
		// Without it the targets metadata of a bundle, which the same key
		// signs, could stand in for the repository's.
		return nil, &Problem{
			URL: u.shown("snapshot.json"), Found: "names targets.json without its SHA-256", Expected: "a snapshot that tandem-release wrote",
			Advice: adviceServer, kind: ErrRefused,
		}
	}
	if u.recall(metadata.TARGETS, func(old []byte) error { _, err := u.trusted.UpdateTargets(old); return err }) != nil {
		return u.trusted.Targets[metadata.TARGETS], nil
	}
	name := strconv.FormatInt(meta.Version, 10) + ".targets.json"
	doc, err := u.get(ctx, u.address("metadata", name), limitFor(meta, maxTargets), "")
	if err != nil {
		return nil, err
	}
	err = u.verify(metadata.TARGETS, doc.body, func() error { _, err := u.trusted.UpdateTargets(doc.body); return err })
	if err != nil {
		return nil, u.refuse(name, metadata.TARGETS, doc.body, err)
	}
	return u.trusted.Targets[metadata.TARGETS], u.o.Store.SaveDocument(metadata.TARGETS, doc.body)
}

// recall loads the stored metadata of a role, so that nothing older than it is
// taken. It gives the stored bytes if they are still in force.
func (u *update) recall(role string, load func([]byte) error) []byte {
	data := u.o.Store.Document(role)
	if data == nil {
		return nil
	}
	if err := u.verify(role, data, func() error { return load(data) }); err != nil {
		u.o.Log.WithError(err).Debugf("stored %s.json is not in force", role)
		return nil
	}
	return data
}

// verify runs the library's check of a document once it is known to have the
// entries that the workflow reads from it.
func (u *update) verify(role string, data []byte, check func() error) error {
	return guard(func() error {
		if err := wellFormed(role, data); err != nil {
			return err
		}
		return check()
	})
}

// head is what is read of any metadata for messages, and to see that what the
// workflow needs is there.
type head struct {
	Signed struct {
		Version int64                          `json:"version"`
		Expires time.Time                      `json:"expires"`
		Meta    map[string]*metadata.MetaFiles `json:"meta"`
	} `json:"signed"`
}

func wellFormed(role string, data []byte) error {
	needs, ok := map[string]string{metadata.TIMESTAMP: "snapshot.json", metadata.SNAPSHOT: "targets.json"}[role]
	if !ok {
		return nil
	}
	var h head
	if err := json.Unmarshal(data, &h); err != nil {
		return err
	}
	if h.Signed.Meta[needs] == nil {
		return fmt.Errorf("%w: it does not name %s", errMalformed, needs)
	}
	for name, m := range h.Signed.Meta {
		if m == nil {
			return fmt.Errorf("%w: nothing is said of %s", errMalformed, name)
		}
	}
	return nil
}

// limitFor bounds a document by the length that the referring role gives.
func limitFor(m *metadata.MetaFiles, most int64) int64 {
	if m.Length > 0 && m.Length < most {
		return m.Length
	}
	return most
}

// refuse says why a document is not trusted.
func (r *Repo) refuse(name, role string, data []byte, err error) error {
	p := &Problem{URL: r.shown(name), kind: ErrRefused, cause: err}
	var h head
	known := json.Unmarshal(data, &h) == nil
	var version *metadata.ErrBadVersionNumber
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		ref := r.o.Store.RefTime(r.o.Now(), r.o.Built)
		p.Found = "the metadata has expired"
		if root := r.o.Store.Root(); ref.After(root.Expires()) {
			p.Found = fmt.Sprintf("the root in force, version %d, expired on %s", root.Version(), root.Expires().UTC().Format(time.RFC3339))
		} else if known {
			p.Found = "expired on " + h.Signed.Expires.UTC().Format(time.RFC3339)
		}
		p.Expected = "metadata that is valid on " + ref.Format(time.RFC3339)
		p.Advice = "have the repository refreshed (tandem-release repo refresh), or see whether the clock of the device is right"
	case errors.As(err, &version):
		p.Found = "a version that is older than this device has seen, or not the next one (" + version.Msg + ")"
		p.Expected = "a repository that only moves forward"
		p.Advice = "see whether the server, or a cache before it, serves an old copy of the repository"
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		p.Found = "not signed by the keys that this device trusts for " + role
		p.Expected = fmt.Sprintf("signatures that root version %d asks for", r.o.Store.Root().Version())
		p.Advice = "see whether source.url is the repository that trust.root belongs to"
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		p.Found = "its length or SHA-256 is not the one that was announced"
		p.Expected = "the document that the repository's " + referrer(role) + " names"
		p.Advice = "see whether the server, or a cache before it, mixes two states of the repository; ask again later"
	default:
		p.Found = "not TUF metadata of the role " + role
		p.Expected = "the file that tandem-release wrote"
		p.Advice = adviceProxy
	}
	return p
}

// refuseRoot says why a root is not the next one. The sentinel of package trust
// is about bundles and is not passed on: a server's answer was refused.
func (r *Repo) refuseRoot(name string, err error) error {
	return &Problem{
		URL: r.shown(name), Found: err.Error(), kind: ErrRefused,
		Expected: fmt.Sprintf("a root that follows version %d, which this device trusts", r.o.Store.Root().Version()),
		Advice:   "see whether source.url is the repository that trust.root belongs to, and whether a proxy or a login page answers in place of the server",
	}
}

func referrer(role string) string {
	if role == metadata.SNAPSHOT {
		return "timestamp.json"
	}
	return "snapshot.json"
}

// bundleTargets are what the targets metadata inside a bundle names, and that
// of a repository never does.
var bundleTargets = []string{"manifest.json", "payload.tar.zst"}

// offers reads the releases that targets metadata lists, sorted by name. One
// that cannot be read is left out, so that a release made by a newer
// tandem-release does not keep a device from the others.
func (r *Repo) offers(targets *metadata.Metadata[metadata.TargetsType]) ([]Offer, error) {
	var offers []Offer
	for name, target := range targets.Signed.Targets {
		if slices.Contains(bundleTargets, name) {
			return nil, &Problem{
				URL: r.shown("targets.json"), Found: "lists " + name + ", as the metadata inside a bundle does", Expected: "the metadata of a repository",
				Advice: adviceServer, kind: ErrRefused,
			}
		}
		rel, err := repository.ParseRelease(name, target)
		if err != nil {
			r.o.Log.WithError(err).Warn("a release is left out")
			continue
		}
		offers = append(offers, Offer{Release: rel, Name: rel.Name, Size: rel.Length, SHA256: rel.SHA256})
	}
	slices.SortFunc(offers, func(a, b Offer) int { return cmp.Compare(a.Name, b.Name) })
	return offers, nil
}
