package ota

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota/download"
	"tandem/ota/internal/webtest"
	"tandem/packaging/release"
	"tandem/packaging/trust"
	"tandem/versioning"
)

// start is when the tests' clocks start.
var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func version(t testing.TB, s string) versioning.Version {
	t.Helper()
	v, err := versioning.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// publisher makes repositories, good ones and others. It signs with go-tuf
// itself, so that it can sign what packaging/repository never would.
type publisher struct {
	t        testing.TB
	keys     map[string]ed25519.PrivateKey
	more     map[string][]ed25519.PrivateKey // of roles that several keys sign
	root     *metadata.Metadata[metadata.RootType]
	targets  *metadata.Metadata[metadata.TargetsType]
	version  int64 // of timestamp, snapshot and targets alike
	expires  time.Time
	noHashes bool              // the snapshot names its targets without a hash
	files    map[string][]byte // by path
	// unpinned is a delegated role that the snapshot names without a hash.
	unpinned string
	// halted are releases that the snapshot withholds.
	halted release.Halts
	// below are the roles that targets delegates to.
	below map[string]*metadata.Metadata[metadata.TargetsType]
}

func newPublisher(t testing.TB) *publisher {
	p := &publisher{
		t: t, keys: map[string]ed25519.PrivateKey{}, more: map[string][]ed25519.PrivateKey{}, files: map[string][]byte{},
		root: metadata.Root(start.AddDate(1, 0, 0)), targets: metadata.Targets(start.AddDate(1, 0, 0)),
		expires: start.Add(48 * time.Hour),
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		p.newKey(role)
	}
	p.writeRoot()
	p.publish()
	return p
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newKey gives a role a new key in place of the one it has.
func (p *publisher) newKey(role string) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if old, ok := p.keys[role]; ok {
		id := must[string](p.t)(must[*metadata.Key](p.t)(metadata.KeyFromPublicKey(old.Public())).ID())
		if err := p.root.Signed.RevokeKey(id, role); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.root.Signed.AddKey(must[*metadata.Key](p.t)(metadata.KeyFromPublicKey(key.Public())), role); err != nil {
		p.t.Fatal(err)
	}
	p.keys[role] = key
}

// need makes a role need n signatures, by as many keys.
func (p *publisher) need(role string, n int) {
	for len(p.more[role]) < n-1 {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			p.t.Fatal(err)
		}
		if err := p.root.Signed.AddKey(must[*metadata.Key](p.t)(metadata.KeyFromPublicKey(key.Public())), role); err != nil {
			p.t.Fatal(err)
		}
		p.more[role] = append(p.more[role], key)
	}
	p.root.Signed.Roles[role].Threshold = n
}

// signers gives all keys of a role.
func (p *publisher) signers(role string) []ed25519.PrivateKey {
	return append(slices.Clone(p.more[role]), p.keys[role])
}

func signed[T metadata.Roles](p *publisher, meta *metadata.Metadata[T], keys ...ed25519.PrivateKey) []byte {
	p.t.Helper()
	meta.ClearSignatures()
	for _, k := range keys {
		must[*metadata.Signature](p.t)(meta.Sign(must[signature.Signer](p.t)(signature.LoadED25519Signer(k))))
	}
	return must[[]byte](p.t)(meta.ToBytes(false))
}

// writeRoot signs the root with its keys, and others that vouch for it.
func (p *publisher) writeRoot(also ...ed25519.PrivateKey) {
	p.files[fmt.Sprintf("/metadata/%d.root.json", p.root.Signed.Version)] = signed(p, p.root, append(also, p.signers(metadata.ROOT)...)...)
}

// rotate publishes a root with new keys for roles.
func (p *publisher) rotate(roles ...string) {
	old := p.keys[metadata.ROOT]
	for _, role := range roles {
		p.newKey(role)
	}
	p.root.Signed.Version++
	if slices.Contains(roles, metadata.ROOT) {
		p.writeRoot(old)
	} else {
		p.writeRoot()
	}
}

// publish signs and writes a new version of all but the root.
func (p *publisher) publish() {
	p.version++
	p.targets.Signed.Version = p.version
	tg := signed(p, p.targets, p.signers(metadata.TARGETS)...)
	p.files[fmt.Sprintf("/metadata/%d.targets.json", p.version)] = tg
	snapshot := metadata.Snapshot(p.expires)
	snapshot.Signed.Version = p.version
	snapshot.Signed.Meta["targets.json"] = pin(p.version, tg)
	for role, meta := range p.below {
		data := signed(p, meta, p.keys[role])
		p.files[fmt.Sprintf("/metadata/%d.%s.json", meta.Signed.Version, role)] = data
		snapshot.Signed.Meta[role+".json"] = pin(meta.Signed.Version, data)
		if role == p.unpinned {
			snapshot.Signed.Meta[role+".json"].Hashes = nil
		}
	}
	p.halted.Write(&snapshot.Signed)
	if p.noHashes {
		snapshot.Signed.Meta["targets.json"].Hashes = nil
	}
	sn := signed(p, snapshot, p.signers(metadata.SNAPSHOT)...)
	p.files[fmt.Sprintf("/metadata/%d.snapshot.json", p.version)] = sn
	p.stamp(p.version, pin(p.version, sn))
}

// stamp writes the timestamp.
func (p *publisher) stamp(version int64, snapshot *metadata.MetaFiles) {
	ts := metadata.Timestamp(p.expires)
	ts.Signed.Version = version
	ts.Signed.Meta = map[string]*metadata.MetaFiles{}
	if snapshot != nil {
		ts.Signed.Meta["snapshot.json"] = snapshot
	}
	p.files["/metadata/timestamp.json"] = signed(p, ts, p.signers(metadata.TIMESTAMP)...)
}

func pin(version int64, data []byte) *metadata.MetaFiles {
	sum := digest.Of(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// delegate lets targets delegate paths to a role with a key of its own.
func (p *publisher) delegate(role string, paths ...string) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.keys[role] = private
	key := must[*metadata.Key](p.t)(metadata.KeyFromPublicKey(private.Public()))
	id := must[string](p.t)(key.ID())
	d := p.targets.Signed.Delegations
	if d == nil {
		d = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		p.targets.Signed.Delegations, p.below = d, map[string]*metadata.Metadata[metadata.TargetsType]{}
	}
	d.Keys[id] = key
	d.Roles = append(d.Roles, metadata.DelegatedRole{Name: role, KeyIDs: []string{id}, Threshold: 1, Paths: paths})
	p.below[role] = metadata.Targets(start.AddDate(1, 0, 0))
}

// addTo is add, to the list of a delegated role.
func (p *publisher) addTo(role, v string, content []byte, change ...func(*release.Target)) {
	top := p.targets
	p.targets = p.below[role]
	p.add(v, content, change...)
	p.targets.Signed.Version++
	p.targets = top
}

// add lists a release of hello for demo hardware in the channel stable, which
// change may change.
func (p *publisher) add(v string, content []byte, change ...func(*release.Target)) {
	r := release.Target{
		Kind: release.App, App: "hello", Version: version(p.t, v), Compatible: []string{"demo"}, Channels: map[string]release.Offering{"stable": {Rollout: 100}},
		Release: digest.Of([]byte("release " + v)),
	}
	for _, f := range change {
		f(&r)
	}
	custom := json.RawMessage(must[[]byte](p.t)(json.Marshal(r)))
	sum := digest.Of(content)
	name := "hello-" + v + ".bundle"
	p.targets.Signed.Targets[name] = &metadata.TargetFiles{
		Length: int64(len(content)), Hashes: metadata.Hashes{"sha256": sum[:]}, Custom: &custom,
	}
	p.files["/targets/"+sum.String()+"."+name] = content
}

func (p *publisher) provisioned() *trust.Root {
	return must[*trust.Root](p.t)(trust.ParseRoot(p.files["/metadata/1.root.json"]))
}

// device is one that follows a repository, its state on fs.
type device struct {
	t     testing.TB
	fs    fsys.FS
	root  *trust.Root
	clock time.Time
	built time.Time
	url   string
	about Device
	// patience is how long it waits for a server; short where that is tested.
	patience time.Duration
}

func newDevice(t testing.TB, s *webtest.Server, p *publisher) *device {
	return &device{
		t: t, fs: memfs.NewMachine().NewDisk("state", memfs.Options{}).FS(), root: p.provisioned(), clock: start, url: s.URL, patience: time.Minute,
		about: Device{ID: "gate-17", App: "hello", Compatible: []string{"demo"}, Channels: []string{"stable"}, Installed: version(t, "1.0.0")},
	}
}

// repo is the device's source as it is after a start.
func (d *device) repo() *Repo {
	d.t.Helper()
	client := NewClient(ClientOptions{Timeout: d.patience, Files: strings.HasPrefix(d.url, "file:")})
	d.t.Cleanup(client.CloseIdleConnections)
	r, err := NewRepo(RepoOptions{
		URL: d.url, Client: client, Store: OpenStore(d.fs, d.root, quiet()), Now: func() time.Time { return d.clock },
		Built: d.built, Stall: d.patience, Log: quiet(),
		Downloads: must[*download.Downloader](d.t)(download.New(download.Options{FS: d.fs, Client: client, Log: quiet()})),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// check asks the source, and gives the version on offer, "" for none.
func (d *device) check() (string, error) {
	d.t.Helper()
	o, err := best(d.t.Context(), d.repo(), d.about)
	if o == nil {
		return "", err
	}
	return o.Release.Version.String(), err
}

// wants checks for a version.
func (d *device) wants(v string) {
	d.t.Helper()
	if got, err := d.check(); err != nil || got != v {
		d.t.Errorf("on offer: %q, %v; want %q", got, err, v)
	}
}

// best polls r, and returns what is best for a device; nil for nothing newer.
func best(ctx context.Context, r *Repo, about Device) (*Offer, error) {
	l, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	dec, err := l.Choose(about)
	return dec.Best, err
}
