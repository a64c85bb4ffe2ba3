package ota

import (
	"bytes"
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

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/ota/download"
	"tandem/ota/fault"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/packaging/tuf"
)

// RepoOptions is what a Repo works with. All but Built and Stall are needed.
type RepoOptions struct {
	URL       string // of the repository; http, https or file
	Client    *http.Client
	Store     *Store
	Downloads *download.Downloader
	Now       func() time.Time
	Built     time.Time     // when this program was built; it cannot be earlier than that
	Stall     time.Duration // how long a server may be silent in the middle of a document; 0 is 30 seconds
	Log       *logrus.Logger
	// Lacks, Most and Told are those of the Fetcher; all may be left out.
	Lacks Lacks
	Most  int64
	Told  bool
}

// Repo is the source that a TUF repository is.
type Repo struct {
	o     RepoOptions
	base  *url.URL
	fresh time.Duration // of the last timestamp metadata
}

// validate says what is missing that nothing goes without.
func (o *RepoOptions) validate() error {
	missing := ""
	switch {
	case o.Client == nil:
		missing = "Client"
	case o.Store == nil:
		missing = "Store"
	case o.Downloads == nil:
		missing = "Downloads"
	case o.Now == nil:
		missing = "Now"
	case o.Log == nil:
		missing = "Log"
	default:
		return nil
	}
	return fmt.Errorf("ota.RepoOptions: %s is missing", missing)
}

// NewRepo makes the source of the repository at o.URL.
func NewRepo(o RepoOptions) (*Repo, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
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
	// Unfit says why nothing that the source has is meant for the device; nil if
	// something is. It wraps ErrIncompatible.
	Unfit error
	// Recall says that the installed release is to be left; nil: it may stay.
	Recall *Recall
}

// Listing is what a repository offered at one poll. The application and each
// firmware of a device choose from the same one.
type Listing struct {
	repo   *Repo
	offers []Offer
	// failed says why releases may be missing: a delegated role that could not
	// be read. What it lists is not known; all other releases are.
	failed error
}

// List polls the repository.
//
// While nothing has changed on the server it costs one conditional request.
// Metadata that was verified is durable before it is used for more; after an
// error or a power cut the store holds what was trusted before or something
// newer, never something older, and the next call goes on from there.
func (r *Repo) List(ctx context.Context) (*Listing, error) {
	l, err := r.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("check for a release: %w", err)
	}
	return l, nil
}

func (r *Repo) list(ctx context.Context) (*Listing, error) {
	trusted, err := r.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	tree := r.Tree(ctx, trusted)
	listed, failed := tree.List()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l := &Listing{repo: r}
	if len(failed) > 0 {
		l.failed = r.delegationProblem(failed[0])
		r.o.Log.WithError(l.failed).Warn("releases of delegated roles may be missing")
	} else {
		r.o.Store.keepDelegated(tree.Roles())
	}
	l.offers, err = r.offers(trusted, listed)
	return l, err
}

// Choose says which release d should have, as its application; Choose, the
// function, has the rules. Where that is none, what is left of a download for
// it is removed; or, if releases may be missing from the listing, the error says why.
// Of several forms the one is taken that has the least left to come: what lies here
// of a download that was begun counts.
func (l *Listing) Choose(d Device) (Decision, error) {
	best, passed := choose(l.offers, d, release.App, func(o *Offer) int64 { return l.repo.fetcher().left(l.repo.wanted(*o)) })
	dec, err := l.decide(d, release.App, best, passed)
	dec.Recall = recalled(l.offers, d) // the top level, which says it, is there
	return dec, err
}

// ChooseKind is Choose for what else a device runs, of that kind: d.App is its name.
func (l *Listing) ChooseKind(kind release.Kind, d Device) (Decision, error) {
	best, passed := chooseKind(kind, l.offers, d)
	return l.decide(d, kind, best, passed)
}

func (l *Listing) decide(d Device, kind release.Kind, best *Offer, passed []Passed) (Decision, error) {
	if best == nil && l.failed != nil {
		return Decision{Passed: passed}, fmt.Errorf("check for a release: %w", l.failed)
	}
	if best == nil {
		l.repo.o.Downloads.Drop(d.App)
	}
	dec := Decision{Best: best, Passed: passed}
	if best == nil {
		dec.Unfit = unfit(l.offers, d, kind)
	}
	return dec, nil
}

// Tree returns the targets metadata below trusted, as Refresh gave it: delegated
// roles are taken from the store if the snapshot still names what is there, else
// from the server, and are durable before they are used.
func (r *Repo) Tree(ctx context.Context, trusted *trustedmetadata.TrustedMetadata) *tuf.Tree {
	u := &update{Repo: r, trusted: trusted, ref: trusted.RefTime}
	room := maxTargets - int64(len(r.o.Store.Document(metadata.TARGETS)))
	return tuf.NewTree(trusted, room, func(role string, meta *metadata.MetaFiles, limit int64, accept func([]byte) error) error {
		if u.recall(role, accept) != nil {
			return nil
		}
		return u.fetch(ctx, role, meta, limit, accept)
	})
}

// delegationProblem makes an error of a Tree one of this repository.
func (r *Repo) delegationProblem(err error) error {
	var p *Problem
	if errors.As(err, &p) {
		return err
	}
	name := "targets.json"
	if errors.Is(err, tuf.ErrNotPinned) {
		name = "snapshot.json"
	}
	return &Problem{
		URL: r.shown(name), Found: err.Error(), Expected: fmt.Sprintf("at most %d delegated roles, as the TUF specification has them", tuf.MaxRoles),
		Advice: "have the repository checked (tandem-release repo check)", Kind: ErrRefused, Cause: err,
	}
}

// Fetch returns the path of a local file that holds what o offers, its length and
// SHA-256 verified and its data durable. What it changes on the disk is said at
// download.Downloader.Get.
func (r *Repo) Fetch(ctx context.Context, o Offer, p Progress) (string, error) {
	file, err := r.fetcher().Fetch(ctx, r.wanted(o), p)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", o.Name, err)
	}
	return file, nil
}

// Complete gets what a file that Fetch gave lacks of the files that want names.
func (r *Repo) Complete(ctx context.Context, o Offer, want func(backup.Path) bool) error {
	if err := r.fetcher().Complete(ctx, r.wanted(o), want); err != nil {
		return fmt.Errorf("fetch more of %s: %w", o.Name, err)
	}
	return nil
}

// Rest returns the path of a file that holds the whole bundle of the release that
// o, a delta bundle, makes; or those frames of it that hold the files which want names,
// nil standing for those that the device lacks.
func (r *Repo) Rest(ctx context.Context, o Offer, want func(backup.Path) bool, p Progress) (string, error) {
	l, err := r.List(ctx)
	if err != nil {
		return "", err
	}
	for _, whole := range l.offers {
		if whole.Release.Release != o.Release.Release || !whole.Release.Base.IsZero() || whole.Release.TakenBack() {
			continue
		}
		file, err := r.fetcher().Rest(ctx, r.wanted(whole), want, p)
		if err != nil {
			return "", fmt.Errorf("fetch %s: %w", whole.Name, err)
		}
		return file, nil
	}
	return "", fmt.Errorf("%w: the repository lists no whole bundle of the release %s", ErrRefused, o.Release.Release)
}

// Cheapest returns the form of an offer that costs least, and fetches what it
// must to know it: the head of the bundle.
func (r *Repo) Cheapest(ctx context.Context, o Offer) (Form, error) {
	form, err := r.fetcher().Cheapest(ctx, r.wanted(o))
	if err != nil {
		return form, fmt.Errorf("look at %s: %w", o.Name, err)
	}
	if !o.Release.Base.IsZero() {
		form.Kind = DeltaBundle
	}
	return form, nil
}

func (r *Repo) fetcher() *Fetcher {
	f := &Fetcher{Downloads: r.o.Downloads, Lacks: r.o.Lacks, Most: r.o.Most, Told: r.o.Told, Log: r.o.Log}
	f.Verifier = func() (bundle.Verifier, error) {
		return trust.New(trust.Options{Root: r.o.Store.Root(), Time: r.o.Store.RefTime(r.o.Now(), r.o.Built)})
	}
	return f
}

// wanted is the bundle of an offer. All but an application is fetched whole: of a
// firmware nothing is known of what is installed, and Tandem is one file.
func (r *Repo) wanted(o Offer) Wanted {
	w := Wanted{Head: o.Release.Head, File: download.File{
		URL: r.address("targets", o.SHA256.String()+"."+o.Name), Size: o.Size, SHA256: o.SHA256,
		For: o.Release.App, Room: o.Release.Unpacked, Release: o.Release.Release,
	}}
	if o.Release.Kind == release.Firmware || o.Release.Kind == release.Agent {
		w.Head = 0
	}
	return w
}

// address returns the URL of a file of the repository.
func (r *Repo) address(dir, name string) string {
	return r.base.JoinPath(dir, url.PathEscape(name)).String()
}

// shown is address for a message, without the password.
func (r *Repo) shown(name string) string {
	return r.base.JoinPath("metadata", url.PathEscape(name)).Redacted()
}

// Refresh runs the TUF client workflow and gives what is trusted at its end:
// root, timestamp, snapshot and targets. List says what it costs and what
// it changes on the disk.
func (r *Repo) Refresh(ctx context.Context) (*trustedmetadata.TrustedMetadata, error) {
	poll := r.o.Store.poll()
	ref := r.o.Store.RefTime(r.o.Now(), r.o.Built)
	var timestamp document
	if err := r.o.Store.Err(); err != nil {
		return nil, err
	}
	var err error
	if have := r.load(poll, ref); have != nil {
		// A server that says that nothing has changed can keep a device from
		// news no longer than one that is silent: until what is stored expires.
		if timestamp, err = r.get(ctx, r.address("metadata", "timestamp.json"), maxTimestamp, poll.ETag); err != nil {
			return nil, err
		}
		if timestamp.status == http.StatusNotModified {
			r.o.Log.Debug("the repository has not changed")
			return have, r.o.Store.remember(Poll{Time: ref, ETag: poll.ETag, Timestamp: poll.Timestamp})
		}
	}
	// The root goes first: it says whose timestamp to believe. When it has
	// changed, the timestamp at hand may be one of the time before.
	rotated, err := r.followRoots(ctx)
	if err != nil {
		return nil, err
	}
	if rotated || timestamp.status != http.StatusOK {
		if timestamp, err = r.get(ctx, r.address("metadata", "timestamp.json"), maxTimestamp, ""); err != nil {
			return nil, err
		}
	}
	if clock := r.proofOfEarlier(ref, timestamp.body); !clock.IsZero() {
		r.o.Log.Warnf("the clock was once ahead of %s, as newer metadata shows: it is %s", ref.Format(time.DateOnly), clock.Format(time.DateOnly))
		if err := r.o.Store.setBack(clock); err != nil {
			return nil, err
		}
		ref = clock
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
	if err := u.targets(ctx); err != nil {
		return nil, err
	}
	next := Poll{Time: ref, Timestamp: digest.Of(timestamp.body)}
	// An ETag is remembered only for the very bytes that are stored: for
	// others "not modified" would say nothing.
	if bytes.Equal(r.o.Store.Document(metadata.TIMESTAMP), timestamp.body) {
		next.ETag = timestamp.etag
	}
	return u.trusted, r.o.Store.remember(next)
}

// proofOfEarlier returns the time by the clock, where a timestamp shows that the
// reference time is wrong, because it was remembered when the clock was ahead; else
// zero. A publisher has since signed a higher version of the timestamp, which is
// good by the clock but would have expired before the remembered time.
//
// What is given up for that: whoever can set a device's clock back can show it a
// timestamp that it has not seen and that has expired since. It is never an older one.
func (r *Repo) proofOfEarlier(ref time.Time, timestamp []byte) time.Time {
	clock := trust.ReferenceTime(r.o.Now(), r.o.Built).UTC()
	stored := r.o.Store.Document(metadata.TIMESTAMP)
	if !clock.Before(ref) || stored == nil {
		return time.Time{}
	}
	tm, err := newTrusted(r.o.Store.Root(), clock)
	if err != nil {
		return time.Time{}
	}
	load := func(data []byte) error { _, err := tm.UpdateTimestamp(data); return err }
	_ = verify(metadata.TIMESTAMP, stored, load) // by the clock it may have expired
	if tm.Timestamp == nil || verify(metadata.TIMESTAMP, timestamp, load) != nil {
		return time.Time{}
	}
	if !tm.Timestamp.Signed.IsExpired(ref) && !tm.Root.Signed.IsExpired(ref) {
		return time.Time{}
	}
	return clock
}

// load verifies what the store holds. It gives nil unless all of it is there,
// fits together, has not expired, and is what the server has a name for.
func (r *Repo) load(poll Poll, ref time.Time) *trustedmetadata.TrustedMetadata {
	ts := r.o.Store.Document(metadata.TIMESTAMP)
	if ts == nil || poll.ETag == "" || poll.Timestamp != digest.Of(ts) {
		return nil
	}
	tm, err := newTrusted(r.o.Store.Root(), ref)
	if err != nil {
		return nil
	}
	for _, part := range []struct {
		role string
		load func([]byte) error
	}{
		{metadata.TIMESTAMP, func(data []byte) error { _, err := tm.UpdateTimestamp(data); return err }},
		{metadata.SNAPSHOT, func(data []byte) error { _, err := tm.UpdateSnapshot(data, false); return err }},
		{metadata.TARGETS, func(data []byte) error { _, err := tm.UpdateTargets(data); return err }},
	} {
		data := r.o.Store.Document(part.role)
		if data == nil {
			return nil
		}
		if err := verify(part.role, data, part.load); err != nil {
			r.o.Log.WithError(err).Debug("stored metadata is not enough")
			return nil
		}
	}
	return tm
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
	load := func(data []byte) error { _, err := u.trusted.UpdateTimestamp(data); return err }
	u.recall(metadata.TIMESTAMP, load)
	err := verify(metadata.TIMESTAMP, data, load)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		// The stored one stays.
		if !u.trusted.Timestamp.Signed.IsExpired(u.ref) {
			return nil
		}
		err = &metadata.ErrExpiredMetadata{Msg: "timestamp.json is expired"}
	}
	if err != nil {
		return u.refuse("timestamp.json", metadata.TIMESTAMP, data, 0, err)
	}
	return u.o.Store.saveDocument(metadata.TIMESTAMP, data, u.ref)
}

// snapshot gets the snapshot that the timestamp names.
func (u *update) snapshot(ctx context.Context) error {
	meta := u.trusted.Timestamp.Signed.Meta["snapshot.json"]
	// What is stored was held against its length and hash when it came; now it
	// only has to be no newer than what follows.
	old := u.recall(metadata.SNAPSHOT, func(data []byte) error { _, err := u.trusted.UpdateSnapshot(data, true); return err })
	if old != nil && meta.VerifyLengthHashes(old) == nil {
		return nil
	}
	return u.fetch(ctx, metadata.SNAPSHOT, meta, maxSnapshot, func(data []byte) error {
		_, err := u.trusted.UpdateSnapshot(data, false)
		return err
	})
}

// targets gets the targets metadata that the snapshot names.
func (u *update) targets(ctx context.Context) error {
	load := func(data []byte) error { _, err := u.trusted.UpdateTargets(data); return err }
	if u.recall(metadata.TARGETS, load) != nil {
		return nil
	}
	return u.fetch(ctx, metadata.TARGETS, u.trusted.Snapshot.Signed.Meta["targets.json"], maxTargets, load)
}

// fetch gets the metadata of a role that meta describes, verifies and keeps it.
func (u *update) fetch(ctx context.Context, role string, meta *metadata.MetaFiles, most int64, load func([]byte) error) error {
	name := role + ".json"
	if u.trusted.Root.Signed.ConsistentSnapshot {
		name = strconv.FormatInt(meta.Version, 10) + "." + name
	}
	doc, err := u.get(ctx, u.address("metadata", name), limitFor(meta, most), "")
	if err != nil {
		return err
	}
	if err := verify(role, doc.body, load); err != nil {
		return u.refuse(name, role, doc.body, meta.Version, err)
	}
	return u.o.Store.saveDocument(role, doc.body, u.ref)
}

// recall loads the stored metadata of a role, so that nothing older than it is
// taken. It gives the stored bytes if they are still in force.
func (u *update) recall(role string, load func([]byte) error) []byte {
	data := u.o.Store.Document(role)
	if data == nil {
		return nil
	}
	if err := verify(role, data, load); err != nil {
		u.o.Log.WithError(err).Debugf("stored metadata of the role %.200q is not in force", role)
		return nil
	}
	return data
}

// verify runs the library's check of a document that it can be given.
func verify(role string, data []byte, check func([]byte) error) error {
	if err := wellFormed(role, data); err != nil {
		return err
	}
	return check(data)
}

// head is what is read of any metadata for messages.
type head struct {
	Signatures []struct {
		KeyID string `json:"keyid"`
	} `json:"signatures"`
	Signed struct {
		Version int64     `json:"version"`
		Expires time.Time `json:"expires"`
	} `json:"signed"`
}

// limitFor bounds a document by the length that the referring role gives.
func limitFor(m *metadata.MetaFiles, most int64) int64 {
	if m.Length > 0 && m.Length < most {
		return m.Length
	}
	return most
}

// refuse says why a document is not trusted. announced is the version that the
// role before it names; 0 for a timestamp, which nothing names.
func (r *Repo) refuse(name, role string, data []byte, announced int64, err error) error {
	p := &Problem{URL: r.shown(name), Kind: ErrRefused, Cause: err}
	var h head
	known := json.Unmarshal(data, &h) == nil
	var version *metadata.ErrBadVersionNumber
	switch {
	case errors.Is(err, tuf.ErrMalformed):
		p.Found = "not TUF metadata of the role " + role
		p.Expected = "the file that tandem-release wrote"
		p.Advice = fault.AdviceProxy
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
	case errors.As(err, &version) && announced > 0 && known && h.Signed.Version != announced:
		p.Found = fmt.Sprintf("has version %d", h.Signed.Version)
		p.Expected = fmt.Sprintf("version %d, which the repository's %s names", announced, referrer(role))
		p.Advice = fault.AdviceMixed
	case errors.As(err, &version):
		p.Found = "a version that is older than this device has seen"
		if role == metadata.TIMESTAMP {
			p.Found += " (" + version.Msg + ")"
		} else {
			p.Found += ", of metadata that it names"
		}
		p.Expected = "a repository that only moves forward"
		p.Advice = "see whether the server, or a cache before it, serves an old copy of the repository"
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		p.Found, p.Expected = r.unsigned(role, &h)
		p.Advice = "see whether source.url is the repository that trust.root belongs to"
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		p.Found = "its length or SHA-256 is not the one that was announced"
		p.Expected = "the document that the repository's " + referrer(role) + " names"
		p.Advice = fault.AdviceMixed
	case r.o.Store.Root().Metadata().Signed.Roles[role] == nil:
		p.Found = "not as the role that delegates to it asks for (" + err.Error() + ")"
		p.Expected = "a delegation that enough of its keys can sign for"
		p.Advice = "have the repository checked (tandem-release repo check)"
	default:
		// The one rule left is that a snapshot drops nothing it has named.
		p.Found = "not what may follow on what this device has seen (" + err.Error() + ")"
		p.Expected = "a repository that only moves forward"
		p.Advice = fault.AdviceMixed
	}
	return p
}

// unsigned says what is wrong with the signatures of metadata.
func (r *Repo) unsigned(role string, h *head) (found, expected string) {
	root := r.o.Store.Root()
	if root.Metadata().Signed.Roles[role] == nil {
		return "not signed as the role that delegates to it asks for", "the signatures of enough of its keys"
	}
	trusted := map[string]bool{}
	for _, s := range h.Signatures {
		if root.HasKey(role, s.KeyID) {
			trusted[s.KeyID] = true
		}
	}
	threshold := root.Metadata().Signed.Roles[role].Threshold
	expected = fmt.Sprintf("signatures that root version %d asks for", root.Version())
	switch n := len(trusted); {
	case n == 0:
		return "not signed by the keys that this device trusts for " + role, expected
	case n < threshold:
		return fmt.Sprintf("signed by %d of the keys that this device trusts for %s", n, role), fmt.Sprintf("%d %s", threshold, expected)
	}
	return "a signature for " + role + " does not match what is signed", expected
}

// refuseRoot says why a root is not the next one. The sentinel of package trust
// is about bundles and is not passed on: a server's answer was refused.
func (r *Repo) refuseRoot(name string, err error) error {
	return &Problem{
		URL: r.shown(name), Found: err.Error(), Kind: ErrRefused,
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
var bundleTargets = []string{"release.json.zst", "parts.json"}

// offers reads the releases that targets metadata lists. One
// that cannot be read is left out, so that a release made by a newer
// tandem-release does not keep a device from the others.
func (r *Repo) offers(trusted *trustedmetadata.TrustedMetadata, listed []tuf.Listed) ([]Offer, error) {
	pinned := func(role string) bool { return len(trusted.Snapshot.Signed.Meta[role+".json"].Hashes["sha256"]) > 0 }
	unpinned := func(role string) error {
		// Without it the targets metadata of a bundle, which the same key
		// signs, could stand in for the repository's.
		return &Problem{
			URL: r.shown("snapshot.json"), Found: "names " + role + ".json without its SHA-256", Expected: "a snapshot that tandem-release wrote",
			Advice: fault.AdviceServer, Kind: ErrRefused,
		}
	}
	if !pinned(metadata.TARGETS) {
		return nil, unpinned(metadata.TARGETS)
	}
	halts, err := release.HaltsIn(&trusted.Snapshot.Signed)
	if err != nil { // what can be read counts: it can only withhold
		r.o.Log.WithError(err).Warn("the snapshot says of some releases that they are halted, and of which cannot be read")
	}
	var offers []Offer
	for _, l := range listed {
		if slices.Contains(bundleTargets, l.Name) {
			return nil, &Problem{
				URL: r.shown(l.Role + ".json"), Found: "lists " + l.Name + ", as the metadata inside a bundle does", Expected: "the metadata of a repository",
				Advice: fault.AdviceServer, Kind: ErrRefused,
			}
		}
		if !pinned(l.Role) {
			return nil, unpinned(l.Role)
		}
		rel, err := release.ParseListed(l)
		if err != nil {
			r.o.Log.WithError(err).Warn("a release is left out")
			continue
		}
		delegated := l.Role != metadata.TARGETS
		if delegated && rel.Recall != nil {
			r.o.Log.Warnf("the recall of %s %s by the delegated role %.80q is left out: only the top-level targets metadata can recall", rel.App, rel.Version, l.Role)
			rel.Recall = nil
		}
		offers = append(offers, Offer{Release: rel, Name: rel.Name, Size: rel.Length, SHA256: rel.SHA256, Halted: halts[rel.Release], Delegated: delegated})
	}
	return offers, nil
}
