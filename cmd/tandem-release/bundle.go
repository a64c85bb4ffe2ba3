package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/internal/cli"
	"tandem/internal/digest"
	"tandem/internal/fsys"
	"tandem/internal/text"
	"tandem/packaging/bundle"
	"tandem/packaging/release"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
	"tandem/versioning"
)

func newBundleCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Make, sign and look at bundles",
		Long: `A bundle is one file that carries one release of an application: a tar with
signed metadata, the list of files, and their compressed contents.`,
		Example: `  tandem-release bundle create hello/ --app hello --version 1.1.0 --compatible demo --out hello-1.1.0.tandem
  tandem-release bundle info hello-1.1.0.tandem`,
	}
	cli.Group(cmd)
	cmd.AddCommand(
		newBundleCreateCommand(p),
		newBundleDeltaCommand(p),
		newBundleInfoCommand(p),
		newBundleDiffCommand(p),
		newBundleVerifyCommand(p),
		newBundleSignCommand(p),
		newBundleExtractCommand(p),
	)
	return cmd
}

// creation is what "bundle create" is asked for.
type creation struct {
	o                  bundle.Options
	version, root, out string
	arch               string
	frame              int64 // KiB
	keys               keyFlags
}

func newBundleCreateCommand(p *program) *cobra.Command {
	var c creation
	cmd := &cobra.Command{
		Use:   "create APPDIR|PROGRAM --app NAME --version VERSION --compatible HARDWARE --out FILE",
		Short: "Make a bundle out of a directory",
		Long: `Make a bundle out of the directory APPDIR. Files, directories, symbolic links and
hard links among them are kept, with modes and extended attributes (user.* and
security.capability); on the device they belong to root. What is left out is told, and
so are files that look like configuration and are under no pattern. What a device
could not keep is an error: a socket, FIFO or device node, a file that is configuration
under one name and not under another, security.ima.

The same directory and flags give the same bytes, on any machine and at any time.
SOURCE_DATE_EPOCH, if set, becomes the time of the release and of its files.

With --keys and --root the bundle is signed; without, "bundle sign" can do that
later, possibly on another machine. A signature does not expire: a device takes
newer versions only, and the root that vouches for the key has a date of its own.

Devices fetch and read only those frames of a bundle that hold files which they lack.
Small files share frames of up to --frame-size KiB; larger files have their own.
Smaller frames make the bundle larger, and updates that change little smaller.

With --kind agent it is made out of one file, a tandem program: the version is the
one that its maker put into the program, and --arch names what it runs on. The
devices on which such a tandem runs follow it as they follow their application.

Patterns are relative to APPDIR. An element ** stands for any number of elements.
--config-pattern names files that may change on the device, --ignore names files
that are neither backed up nor restored.`,
		Example: `  tandem-release bundle create hello/ --app hello --version 1.1.0 --compatible demo \
      --config-pattern 'etc/*.conf' --ignore 'log/**' \
      --keys keys --root repo/root.json --out hello-1.1.0.tandem
  tandem-release bundle create --kind agent --arch armv7 tandem-linux-armv7 \
      --keys keys --root repo/root.json --out tandem-2.1.0-armv7.tandem`,
		Args: cli.Exactly("APPDIR"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, p, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&c.o.App, "app", "", "`NAME` of the application, or firmware, that the bundle carries")
	f.StringVar((*string)(&c.o.Kind), "kind", string(release.App), "`KIND` of bundle: app, firmware for the device's handler to write, or agent for Tandem itself")
	f.StringVar(&c.arch, "arch", "", "of --kind agent: `ARCH` that the program runs on, such as armv7 or arm64")
	f.StringVar(&c.version, "version", "", "semantic `VERSION`, such as 1.1.0")
	f.StringArrayVar(&c.o.Compatible, "compatible", nil, "`HARDWARE` that it is for (repeatable)")
	f.StringArrayVar(&c.o.Config, "config-pattern", nil, "`PATTERN` of files that may change on the device (repeatable)")
	f.StringArrayVar(&c.o.Ignore, "ignore", nil, "`PATTERN` of files that are neither backed up nor restored (repeatable)")
	f.StringArrayVar(&c.o.Replace, "replace", nil, "`PATTERN` of files that may change, and that this release brings anew all the same (repeatable)")
	f.StringArrayVar(&c.o.Remove, "remove", nil, "`PATTERN` of files that earlier releases left and that must go (repeatable)")
	f.Int64Var(&c.frame, "frame-size", bundle.DefaultFrame>>10, "KiB that small files share in one frame")
	c.keys.register(cmd)
	f.StringVar(&c.root, "root", "", "`ROOT.json` that names the key")
	f.StringVar(&c.out, "out", "", "`FILE` to write")
	return cmd
}

// run makes the bundle out of source.
func (c *creation) run(cmd *cobra.Command, p *program, source string) (err error) {
	if c.o.Kind == release.Agent {
		tree, done, err := programTree(cmd, source, c.arch, &c.o, &c.version)
		if err != nil {
			return err
		}
		defer done()
		source = tree
	} else if c.arch != "" {
		return cli.Usage(cmd, "--arch goes with --kind agent; other hardware is named with --compatible")
	}
	for _, f := range []string{"app", "version", "compatible", "out"} {
		if !cmd.Flags().Changed(f) && (c.o.Kind != release.Agent || f == "out") {
			return cli.Usage(cmd, "--%s is missing", f)
		}
	}
	if c.o.Version, err = versioning.Parse(c.version); err != nil {
		return cli.Usage(cmd, "--version: %w", err)
	}
	if c.frame < 4 || c.frame > 1024 {
		return cli.Usage(cmd, "--frame-size %d: expected 4 to 1024 KiB", c.frame)
	}
	c.o.Frame = c.frame << 10
	if c.o.Time, err = p.sourceDate(cmd); err != nil {
		return err
	}
	if c.keys.given() == (c.root == "") {
		return cli.Usage(cmd, "--keys and --root go together: the root must name the key that signs")
	}
	if c.keys.given() {
		if c.o.Signing, err = p.signWith(cmd.Context(), &c.keys, c.root); err != nil {
			return err
		}
	}
	if err := outside(cmd, source, c.out); err != nil {
		return err
	}
	app, err := fsys.OpenOS(source)
	if err != nil {
		return err
	}
	defer app.Close()
	dir, name, err := openParent(cmd, c.out)
	if err != nil {
		return err
	}
	defer dir.Close()
	c.o.Builder = os.Geteuid()
	c.o.Attributes = func(name string) ([]string, error) { return attributes(filepath.Join(source, name)) }
	c.o.Tell = func(what string) { p.say("%s", what) }
	m, err := bundle.Create(cmd.Context(), app, dir, name, c.o)
	if err != nil {
		return err
	}
	p.say("%s %s: %s", m.App, m.Version, contents(m))
	if !c.keys.given() {
		p.say("it is not signed: devices will refuse it until \"tandem-release bundle sign\" has signed it")
	}
	return p.result(c.out)
}

// attributes returns the names of all extended attributes of a file.
func attributes(file string) ([]string, error) {
	buf := make([]byte, 64<<10) // the most that Linux gives
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attributes of %s: %w", file, err)
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
}

// outside refuses to write a bundle into the tree that it is made of: the next
// one would carry it.
func outside(cmd *cobra.Command, app, out string) error {
	a, err := filepath.EvalSymlinks(app)
	if err != nil {
		return err
	}
	o, err := filepath.EvalSymlinks(filepath.Dir(out))
	if err != nil {
		return err
	}
	if a, err = filepath.Abs(a); err != nil {
		return err
	}
	if o, err = filepath.Abs(o); err != nil {
		return err
	}
	if rel, err := filepath.Rel(a, o); err == nil && filepath.IsLocal(rel) {
		return cli.Usage(cmd, "--out %s lies in %s: expected a file outside of it", out, app)
	}
	return nil
}

// openParent opens the directory that file lies in, or is to lie in.
func openParent(cmd *cobra.Command, file string) (*fsys.OS, string, error) {
	name := filepath.Base(file)
	if name == "." || name == ".." || name == "/" || strings.HasSuffix(file, "/") {
		return nil, "", cli.Usage(cmd, "%q is no name of a file", file)
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() { // what is written replaces it
		return nil, "", cli.Usage(cmd, "%s is no regular file", file)
	}
	dir, err := fsys.OpenOS(filepath.Dir(file))
	return dir, name, err
}

// loadRoot reads a root.json.
func loadRoot(name string) (*trust.Root, error) {
	dir, err := fsys.OpenOS(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	raw, err := fsys.ReadFile(dir, filepath.Base(name), trust.MaxRoot)
	if err != nil {
		return nil, err
	}
	root, err := trust.ParseRoot(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return root, nil
}

// signWith says how to sign with the targets keys in keys, which root must name.
func (p *program) signWith(ctx context.Context, keys *keyFlags, rootFile string) (bundle.Signing, error) {
	root, err := loadRoot(rootFile)
	if err != nil {
		return bundle.Signing{}, err
	}
	var s bundle.Signing
	err = p.ring(ctx, keys, nil, func(ring *signing.Ring) error {
		s.Sign, err = signing.ForBundle(ring, root)
		return err
	})
	if err != nil {
		return bundle.Signing{}, err
	}
	beside, err := fsys.OpenOS(filepath.Dir(rootFile))
	if err != nil {
		return bundle.Signing{}, err
	}
	defer beside.Close()
	s.Roots, s.FirstRoot, err = repository.Carried(beside, root)
	return s, err
}

// facts is what info and verify say about a bundle.
type facts struct {
	File         string        `json:"file"`
	Kind         string        `json:"kind"`
	App          string        `json:"app"`
	Version      string        `json:"version"`
	Compatible   []string      `json:"compatible"`
	Time         *time.Time    `json:"time,omitempty"`
	Config       []string      `json:"config"`
	Ignore       []string      `json:"ignore"`
	Replace      []string      `json:"replace"`
	Remove       []string      `json:"remove"`
	Entries      int           `json:"entries"`      // files, directories and links
	Size         int64         `json:"size"`         // of all files, bytes
	Release      digest.SHA256 `json:"release"`      // of release.json
	HeadSize     int64         `json:"head_size"`    // what comes before the payload, bytes
	PayloadSize  int64         `json:"payload_size"` // compressed, bytes
	PayloadFiles int           `json:"payload_files"`
	Frames       int           `json:"frames"`
	Signed       bool          `json:"signed"` // carries a signature, of whomever
	Keys         []string      `json:"keys"`   // that it claims to be signed by
	Expires      *time.Time    `json:"expires,omitempty"`
	// Delta is what a delta bundle builds on. Without its base here the rest of
	// what the release is cannot be told.
	Delta *deltaFacts `json:"delta,omitempty"`
	// Trusted says that the root given with --root vouches for the bundle.
	Trusted bool `json:"trusted"`
	// Verified says that every byte was read and found right.
	Verified bool `json:"verified"`
	// FrameList is there with --frames.
	FrameList []bundle.FrameInfo `json:"frame_list,omitempty"`
}

// deltaFacts is what info says about a delta bundle.
type deltaFacts struct {
	BaseVersion string         `json:"base_version"`
	BaseRelease digest.SHA256  `json:"base_release"`
	Patches     []bundle.Patch `json:"patches"`
	PatchSize   int64          `json:"patch_size"` // of all, bytes
}

func gather(name string, r *bundle.Head) (*facts, error) {
	t, _, err := bundle.ParseTargets(r.TargetsMetadata())
	if err != nil {
		return nil, err
	}
	m := r.Manifest()
	d := r.Parts().Delta
	if m == nil { // its base is not here
		m = &release.Manifest{Kind: release.App, App: d.App, Version: d.Version}
	}
	f := &facts{
		File:        name,
		Kind:        string(m.Kind),
		App:         m.App,
		Version:     m.Version.String(),
		Compatible:  m.Compatible,
		Config:      list(m.Config),
		Ignore:      list(m.Ignore),
		Replace:     list(m.Replace),
		Remove:      list(m.Remove),
		Entries:     len(m.Files),
		Release:     r.Release(),
		HeadSize:    r.Length(),
		PayloadSize: r.Parts().Payload(),
		Frames:      len(r.Parts().Frames),
		Signed:      len(t.Signatures) > 0,
		Keys:        []string{},
	}
	f.PayloadFiles, f.Size = m.Content()
	if d != nil {
		f.PayloadFiles = r.Carries()
		f.Delta = &deltaFacts{BaseVersion: d.Base.Version.String(), BaseRelease: d.Base.Release, Patches: d.Patches}
		for _, p := range d.Patches {
			f.Delta.PatchSize += p.Length
		}
	}
	if m.Time > 0 {
		at := time.Unix(m.Time, 0).UTC()
		f.Time = &at
	}
	for _, s := range t.Signatures {
		f.Keys = append(f.Keys, s.KeyID)
	}
	if f.Signed && !t.Signed.Expires.Equal(bundle.Never()) {
		f.Expires = &t.Signed.Expires
	}
	return f, nil
}

// list keeps an empty list from becoming null in JSON.
func list(s []string) []string { return append([]string{}, s...) }

func (f *facts) print(w io.Writer) error {
	b := bufio.NewWriter(w)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "%-12s %s\n", name, text.Line(value))
		}
	}
	row("app", f.App)
	row("version", f.Version)
	row("kind", f.Kind)
	row("release", f.Release.String())
	row("compatible", strings.Join(f.Compatible, ", "))
	if f.Time != nil {
		row("time", f.Time.Format(time.RFC3339))
	}
	row("config", strings.Join(f.Config, ", "))
	row("ignore", strings.Join(f.Ignore, ", "))
	row("replace", strings.Join(f.Replace, ", "))
	row("remove", strings.Join(f.Remove, ", "))
	files := text.Count(f.PayloadFiles, "file") + ", "
	if d := f.Delta; d != nil {
		row("builds on", d.BaseVersion+", release "+d.BaseRelease.String())
		row("patches", fmt.Sprintf("%d, %s", len(d.Patches), text.Size(d.PatchSize)))
	}
	if f.Entries > 0 {
		row("entries", fmt.Sprintf("%d, %s", f.Entries, text.Size(f.Size)))
	} else {
		row("entries", "told with --base OLD.tandem alone")
		files = ""
	}
	row("head", text.Size(f.HeadSize))
	row("payload", fmt.Sprintf("%s%s compressed, in %d frames", files, text.Size(f.PayloadSize), f.Frames))
	if f.Signed {
		row("signed by", strings.Join(f.Keys, ", "))
	} else {
		row("signed by", "nobody")
	}
	if f.Expires != nil {
		row("expires", f.Expires.Format(time.RFC3339))
	}
	trusted := "not checked: no --root"
	if f.Trusted {
		trusted = "yes"
	}
	row("trusted", trusted)
	if f.Verified {
		row("verified", "yes, every byte")
	}
	if len(f.FrameList) > 0 {
		fmt.Fprintf(b, "\n%12s %10s %10s %6s  %s\n", "AT", "LENGTH", "DECODED", "FILES", "FIRST FILE")
	}
	for _, frame := range f.FrameList {
		files := strconv.Itoa(frame.Files)
		if frame.Piece {
			files = "piece"
		}
		fmt.Fprintf(b, "%12d %10d %10d %6s  %s\n", frame.At, frame.Length, frame.Size, files, text.Line(frame.First))
	}
	return b.Flush()
}

func contents(m *release.Manifest) string {
	_, all := m.Content()
	return fmt.Sprintf("%d entries, %s", len(m.Files), text.Size(all))
}

func newBundleInfoCommand(p *program) *cobra.Command {
	return newLookCommand(p, false, &cobra.Command{
		Use:   "info FILE [--root ROOT.json] [--base OLD.tandem] [--frames]",
		Short: "Show what a bundle is",
		Long: `Show what a bundle is: application, version, hardware, patterns, sizes, and by
which keys it claims to be signed. Its contents are not read. Of a delta bundle it
shows what that builds on and the patches, and with --base the rest.

With --root it fails with exit code 20 unless that root vouches for the bundle.`,
		Example: `  tandem-release bundle info hello-1.1.0.tandem
  tandem-release bundle info hello-1.1.0.tandem --frames
  tandem-release bundle info hello-1.1.0.tandem --json`,
	})
}

func newBundleVerifyCommand(p *program) *cobra.Command {
	return newLookCommand(p, true, &cobra.Command{
		Use:   "verify FILE [--root ROOT.json] [--base OLD.tandem]",
		Short: "Check a bundle as a device does",
		Long: `Read a whole bundle and check it as a device does: its form, the hash of every
file, and with --root whether that root vouches for it. Without --root damage is
found, but not who made the bundle. A delta bundle is checked with --base: each
patch is applied.

Exit code 20 means not signed by the root, 24 malformed or damaged.`,
		Example: `  tandem-release bundle verify hello-1.1.0.tandem --root repo/root.json`,
	})
}

// newLookCommand is info, and verify where whole is true.
func newLookCommand(p *program, whole bool, cmd *cobra.Command) *cobra.Command {
	var (
		root, base     string
		asJSON, frames bool
	)
	cmd.Args = cli.Exactly("FILE")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := p.openBundle(cmd.Context(), args[0], root, base)
		if err != nil {
			return err
		}
		defer b.Close()
		h, err := b.look(cmd.Context(), whole)
		if err != nil {
			return err
		}
		found, err := gather(args[0], h)
		if err != nil {
			return err
		}
		found.Trusted, found.Verified = root != "", whole
		if frames {
			found.FrameList = h.List()
		}
		if asJSON {
			return p.document(found)
		}
		return found.print(p.stdout)
	}
	cmd.Flags().StringVar(&root, "root", "", "`ROOT.json` that must vouch for the bundle")
	baseFlag(cmd, &base)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	if !whole {
		cmd.Flags().BoolVar(&frames, "frames", false, "list the frames of the payload and what they hold")
	}
	return cmd
}

func baseFlag(cmd *cobra.Command, base *string) {
	cmd.Flags().StringVar(base, "base", "", "`BUNDLE` of the release that a delta bundle builds on")
}

// opened is a bundle that is being looked at.
type opened struct {
	*os.File
	verifier bundle.Verifier
	base     bundle.Base // may be nil
	baseFile *os.File    // likewise
}

// Close ends the look.
func (o *opened) Close() error {
	if o.baseFile != nil {
		o.baseFile.Close()
	}
	return o.File.Close()
}

// openBundle opens a bundle, and the one of the release that it builds on if base names
// one. Without rootFile nobody needs to have signed it.
func (p *program) openBundle(ctx context.Context, name, rootFile, base string) (*opened, error) {
	var v bundle.Verifier = bundle.Inspect{}
	if rootFile != "" {
		root, err := loadRoot(rootFile)
		if err != nil {
			return nil, err
		}
		if v, err = trust.New(trust.Options{Root: root, Time: p.now()}); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, fmt.Errorf("%s is a directory: expected a bundle", name)
	}
	o := &opened{File: f, verifier: v}
	if base != "" {
		a, old, err := openArchive(ctx, base)
		if err != nil {
			f.Close()
			return nil, err
		}
		o.base, o.baseFile = a, old
	}
	return o, nil
}

// read reads the bundle up to its payload.
func (o *opened) read(ctx context.Context) (*bundle.Reader, error) {
	src := fsys.InContext(ctx, o.File)
	if o.base == nil {
		r, err := bundle.NewReader(src, o.verifier)
		return r, o.named(err)
	}
	r, err := bundle.NewReaderOn(src, o.verifier, o.base)
	return r, o.named(err)
}

// look returns the head of the bundle; of one that is read whole, if all of it
// is right.
func (o *opened) look(ctx context.Context, whole bool) (*bundle.Head, error) {
	if !whole {
		h, err := bundle.Look(fsys.InContext(ctx, o.File), o.verifier, o.base)
		return h, o.named(err)
	}
	r, err := o.read(ctx)
	if err != nil {
		return nil, err
	}
	return r.Head, o.named(r.Finish())
}

func (o *opened) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", o.Name(), err)
}

func newBundleSignCommand(p *program) *cobra.Command {
	var (
		keys keyFlags
		root string
	)
	cmd := &cobra.Command{
		Use:   "sign FILE --keys KEYS --root ROOT.json",
		Short: "Sign a bundle",
		Long: `Sign a bundle in place with the targets key in KEYS. The whole bundle is checked
first. ROOT.json must name that key; newer roots are carried along in the bundle,
so that devices which were offline can follow a change of keys. Signatures of
other keys stay.`,
		Example: `  tandem-release bundle sign hello-1.1.0.tandem --keys keys --root repo/root.json`,
		Args:    cli.Exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !keys.given() || root == "" {
				return cli.Usage(cmd, "--keys and --root are both needed: the root must name the key that signs")
			}
			s, err := p.signWith(cmd.Context(), &keys, root)
			if err != nil {
				return err
			}
			dir, name, err := openParent(cmd, args[0])
			if err != nil {
				return err
			}
			defer dir.Close()
			if err := bundle.Sign(cmd.Context(), dir, name, s); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			err = p.result(args[0])
			return err
		},
	}
	keys.register(cmd)
	cmd.Flags().StringVar(&root, "root", "", "`ROOT.json` that names the key")
	return cmd
}

func newBundleExtractCommand(p *program) *cobra.Command {
	var root, base string
	cmd := &cobra.Command{
		Use:   "extract FILE DIR [--root ROOT.json] [--base OLD.tandem]",
		Short: "Unpack a bundle into a directory",
		Long: `Unpack a bundle into the directory DIR, which must be empty or missing, and verify
it on the way. Modes are set, owners and extended attributes are not. If the
bundle turns out to be bad, what was unpacked is removed again. What a delta bundle
does not carry comes from OLD.tandem.`,
		Example: `  tandem-release bundle extract hello-1.1.0.tandem hello/ --root repo/root.json`,
		Args:    cli.Exactly("FILE", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := p.openBundle(cmd.Context(), args[0], root, base)
			if err != nil {
				return err
			}
			defer b.Close()
			r, err := b.read(cmd.Context())
			if err != nil {
				return err
			}
			if err := extract(args[1], r); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			err = p.result(args[1])
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "`ROOT.json` that must vouch for the bundle")
	baseFlag(cmd, &base)
	return cmd
}

// extract unpacks into a directory beside dir that takes its place at the end,
// so that dir never holds anything unverified.
func extract(dir string, r *bundle.Reader) error {
	dir = filepath.Clean(dir)
	parent, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := filepath.Base(dir)
	if !filepath.IsLocal(name) || name == "." {
		return fmt.Errorf("%s: expected a directory with a name", dir)
	}
	if err := parent.Remove(name); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("%s: expected an empty or a missing directory: %w", dir, err)
	}
	tmp := name + ".tmp"
	if err := parent.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	root, err := parent.OpenRoot(tmp)
	if err != nil {
		return err
	}
	err = bundle.Extract(r, root)
	if e := root.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = parent.Rename(tmp, name)
	}
	if err != nil {
		_ = parent.RemoveAll(tmp) // the first error is the one to report
	}
	return err
}
