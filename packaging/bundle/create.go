package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"tandem/backup"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/versioning"
)

// window is how far back our own compression reaches: a reader needs that
// much memory, and devices have little.
const window = 1 << 20

// Options say what a bundle is to be.
type Options struct {
	Kind       Kind // "" means App
	App        string
	Version    versioning.Version
	Compatible []string
	Config     []string
	Ignore     []string
	Replace    []string
	Remove     []string
	// Time is SOURCE_DATE_EPOCH: the time of the release and of all its files.
	// 0 leaves both unsaid.
	Time int64
	Signing
}

// Signing says how a bundle is to be signed.
type Signing struct {
	// Roots are carried along, so that a device which was offline can follow a
	// change of keys: versions FirstRoot, FirstRoot+1 …
	Roots     [][]byte
	FirstRoot int64
	// Sign adds a signature to t. Without it the bundle carries none.
	Sign func(t *Targets) error
	// Expires is when the signature ends to be valid; the zero time means Never.
	Expires time.Time
}

func (o *Options) manifest() *Manifest {
	m := &Manifest{
		Kind:       o.Kind,
		App:        o.App,
		Version:    o.Version,
		Compatible: o.Compatible,
		Time:       o.Time,
		Config:     o.Config,
		Ignore:     o.Ignore,
		Replace:    o.Replace,
		Remove:     o.Remove,
		Payload:    Payload{Compression: compression},
		Files:      Files{},
	}
	if m.Kind == "" {
		m.Kind = App
	}
	return m
}

// Create makes a bundle of the tree app and writes it to the file name of out.
// The same tree and options give the same bytes, wherever and whenever: files
// belong to root, their times are that of the release, their order is that of
// their paths; modes and extended attributes are those of the tree.
//
// After success the bundle is durable. After an error or a power cut name is
// what it was before, or the new bundle, whole; name+".tmp" and
// name+".payload.tmp" may be left, which the next Create replaces. Errors wrap ErrOptions where the options or the
// tree are at fault.
func Create(ctx context.Context, app fsys.FS, out fsys.FS, name string, o Options) (m *Manifest, err error) {
	m = o.manifest()
	if err := m.checkFacts(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if err := scan(ctx, app, m); err != nil {
		return nil, err
	}
	payload := name + ".payload.tmp"
	defer func() {
		if e := out.Remove(payload); e != nil && !fsys.IsNotExist(e) && err == nil {
			err = e
		}
	}()
	packed, err := writePayload(ctx, app, out, payload, m)
	if err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil { // what no reader would take is not written
		return nil, fmt.Errorf("%w: %s: %v", ErrTree, app.Path("."), err)
	}
	raw, err := m.Encode()
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("%w: %s: its manifest would have %d bytes, at most %d are allowed", ErrTree, app.Path("."), len(raw), MaxManifest)
	}
	t, err := o.targets(describe(raw), packed, nil)
	if err != nil {
		return nil, err
	}
	f, err := out.Open(payload)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return m, write(out, name, &o.Signing, t, raw, m.Time, packed, InContext(ctx, f))
}

func describe(data []byte) SignedFile {
	return SignedFile{Length: int64(len(data)), SHA256: digest.Of(data)}
}

// targets gives signed targets metadata. old, if not nil, holds signatures of
// others that stay, as long as what they sign stays.
func (s *Signing) targets(manifest, payload SignedFile, old *Targets) ([]byte, error) {
	if s.Sign == nil {
		return newTargets(manifest, payload, Never()).ToBytes(false)
	}
	expires := s.Expires
	if expires.IsZero() {
		expires = Never()
	}
	t := newTargets(manifest, payload, expires.UTC().Truncate(time.Second))
	if old != nil && old.Signed.Expires.Equal(t.Signed.Expires) && old.Signed.Version == t.Signed.Version {
		t.Signatures = old.Signatures
	}
	others := slices.Clone(t.Signatures)
	t.Signatures = nil
	if err := s.Sign(t); err != nil {
		return nil, err
	}
	for _, o := range others {
		if !slices.ContainsFunc(t.Signatures, func(s Signature) bool { return s.KeyID == o.KeyID }) {
			t.Signatures = append(t.Signatures, o)
		}
	}
	slices.SortFunc(t.Signatures, func(a, b Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	return t.ToBytes(false)
}

// write writes a bundle durably.
func write(out fsys.FS, name string, s *Signing, targets, manifest []byte, mtime int64, packed SignedFile, payload io.Reader) error {
	tmp := name + ".tmp"
	if err := out.Remove(tmp); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	f, err := out.Create(tmp, 0o644)
	if err != nil {
		return err
	}
	err = writeTo(f, s, targets, manifest, mtime, packed, payload)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = out.Rename(tmp, name)
	}
	if err != nil {
		_ = out.Remove(tmp) // the first error is the one to report
		return err
	}
	return out.SyncDir(path.Dir(name))
}

func writeTo(w io.Writer, s *Signing, targets, manifest []byte, mtime int64, packed SignedFile, payload io.Reader) error {
	small := func(name string, data []byte) error {
		return member(w, name, int64(len(data)), mtime, bytes.NewReader(data))
	}
	if err := small(formatName, []byte(formatVersion)); err != nil {
		return err
	}
	total := 0
	for i, root := range s.Roots {
		if total += len(root); len(root) > maxRoot || total > maxAllRoots {
			return fmt.Errorf("%w: the roots to carry along are too long", ErrOptions)
		}
		if err := small(rootName(s.FirstRoot+int64(i)), root); err != nil {
			return err
		}
	}
	if err := small(targetsName, targets); err != nil {
		return err
	}
	if err := small(manifestName, manifest); err != nil {
		return err
	}
	h := &hashing{src: payload, hash: digest.New()}
	if err := member(w, payloadName, packed.Length, mtime, h); err != nil {
		return err
	}
	if digest.Sum(h.hash) != packed.SHA256 {
		return fmt.Errorf("%s changed while it was read", payloadName)
	}
	_, err := w.Write(make([]byte, 2*block))
	return err
}

// scan lists the tree, without hashes, sorted by path.
func scan(ctx context.Context, app fsys.FS, m *Manifest) error {
	if err := scanDir(ctx, app, ".", m); err != nil {
		return err
	}
	if len(m.Files) == 0 {
		return fmt.Errorf("%w: %s is empty", ErrTree, app.Path("."))
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return findLinks(app, m)
}

func scanDir(ctx context.Context, app fsys.FS, dir string, m *Manifest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	infos, err := app.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		name := path.Join(dir, info.Name)
		e := File{Entry: backup.Entry{Path: backup.Path(name), Mode: backup.Mode(info.Mode), Mtime: m.Time * int64(time.Second)}}
		switch info.Type {
		case fsys.TypeFile:
			e.Type, e.From, e.Size = backup.File, Full, info.Size
		case fsys.TypeDir:
			e.Type = backup.Dir
		case fsys.TypeSymlink:
			e.Type, e.Mode = backup.Symlink, 0
			target, err := app.Readlink(name)
			if err != nil {
				return err
			}
			e.Target = backup.Path(target)
		default:
			return fmt.Errorf("%w: %s is a socket, a FIFO or a device: expected files, directories and links", ErrTree, app.Path(name))
		}
		if info.Type != fsys.TypeSymlink {
			if e.Xattrs, err = xattrs(app, name); err != nil {
				return err
			}
		}
		if len(m.Files) == MaxFiles {
			return fmt.Errorf("%w: %s has more than %d entries", ErrTree, app.Path("."), MaxFiles)
		}
		m.Files = append(m.Files, e)
		if info.Type == fsys.TypeDir {
			if err := scanDir(ctx, app, name, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// xattrs gives the extended attributes that mean the same on every machine.
func xattrs(app fsys.FS, name string) (map[string][]byte, error) {
	all, err := app.Xattrs(name)
	if err != nil {
		return nil, err
	}
	var kept map[string][]byte
	for n, v := range all {
		if n != "security.capability" && !strings.HasPrefix(n, "user.") {
			continue
		}
		if !utf8.ValidString(n) {
			return nil, fmt.Errorf("%w: %s: extended attribute %q is not UTF-8", ErrTree, app.Path(name), n)
		}
		if kept == nil {
			kept = make(map[string][]byte)
		}
		kept[n] = v
	}
	return kept, nil
}

// findLinks turns all names but the first of a file into hard links.
func findLinks(app fsys.FS, m *Manifest) error {
	type inode struct{ dev, ino uint64 }
	first := make(map[inode]backup.Path)
	for i := range m.Files {
		e := &m.Files[i]
		if e.Type != backup.File {
			continue
		}
		info, err := app.Lstat(string(e.Path))
		if err != nil {
			return err
		}
		if info.Nlink < 2 {
			continue
		}
		id := inode{info.Dev, info.Ino}
		if to, ok := first[id]; ok {
			m.Files[i] = File{Entry: backup.Entry{Path: e.Path, Type: backup.Hardlink, Link: to}}
			continue
		}
		first[id] = e.Path
	}
	return nil
}

// writePayload writes the files of m to name and completes m with their hashes.
func writePayload(ctx context.Context, app, out fsys.FS, name string, m *Manifest) (SignedFile, error) {
	if err := out.Remove(name); err != nil && !fsys.IsNotExist(err) {
		return SignedFile{}, err
	}
	f, err := out.Create(name, 0o600)
	if err != nil {
		return SignedFile{}, err
	}
	packed, err := pack(ctx, app, f, m)
	if e := f.Close(); err == nil {
		err = e
	}
	return packed, err
}

func pack(ctx context.Context, app fsys.FS, w io.Writer, m *Manifest) (SignedFile, error) {
	h := digest.New()
	outer := &counting{w: io.MultiWriter(w, h)}
	z, err := zstd.NewWriter(outer,
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window),
		zstd.WithEncoderCRC(false))
	if err != nil {
		return SignedFile{}, err
	}
	defer z.Close()
	plain := &counting{w: z}
	t := tar.NewWriter(plain)
	buf := make([]byte, 128<<10)
	for i := range m.Files {
		e := &m.Files[i]
		if e.From != Full {
			continue
		}
		if err := packFile(ctx, app, t, e, m.Time, buf); err != nil {
			return SignedFile{}, err
		}
		m.Payload.Files++
	}
	if err := t.Close(); err != nil {
		return SignedFile{}, err
	}
	if err := z.Close(); err != nil {
		return SignedFile{}, err
	}
	m.Payload.Size = plain.n
	return SignedFile{Length: outer.n, SHA256: digest.Sum(h)}, nil
}

func packFile(ctx context.Context, app fsys.FS, t *tar.Writer, e *File, mtime int64, buf []byte) error {
	f, err := app.Open(string(e.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	err = t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     string(e.Path),
		Size:     e.Size,
		Mode:     int64(e.Mode),
		ModTime:  time.Unix(mtime, 0),
		Format:   tar.FormatPAX,
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrTree, app.Path(string(e.Path)), err)
	}
	// One byte more than expected is asked for, so that a file that grew is noticed.
	h := digest.New()
	n, err := io.CopyBuffer(io.MultiWriter(h, t), io.LimitReader(InContext(ctx, f), e.Size), buf)
	if err != nil {
		return err
	}
	if more, _ := f.Read(make([]byte, 1)); n != e.Size || more > 0 {
		return fmt.Errorf("%s: changed while it was read", app.Path(string(e.Path)))
	}
	sum := digest.Sum(h)
	e.SHA256 = &sum
	return nil
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// InContext gives a reader that ends with ctx's error once ctx is done.
func InContext(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Sign replaces the signature and the roots that the bundle name of fs
// carries. Signatures of other keys stay. Everything else in the bundle is
// verified on the way and keeps its bytes.
//
// After success the signed bundle is durable. After an error or a power cut
// name is what it was before, or the signed bundle, whole; name+".tmp" may be left.
func Sign(ctx context.Context, fs fsys.FS, name string, s Signing) error {
	if s.Sign == nil {
		return errors.New("bundle: nothing to sign with")
	}
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := &Reader{in: &frames{src: InContext(ctx, f)}, keepRaw: true}
	if err := r.begin(Inspect{}); err != nil {
		return err
	}
	if err := r.Finish(); err != nil {
		return err
	}
	old, signed, err := ParseTargets(r.targets)
	if err != nil {
		return err
	}
	t, err := s.targets(signed.Manifest, signed.Payload, old)
	if err != nil {
		return err
	}
	again, err := fs.Open(name)
	if err != nil {
		return err
	}
	defer again.Close()
	second, err := NewReader(InContext(ctx, again), Inspect{})
	if err != nil {
		return err
	}
	defer second.zstd.Close()
	return write(fs, name, &s, t, r.raw, r.manifest.Time, signed.Payload, second.in)
}
