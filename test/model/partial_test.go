package model

import (
	"bytes"
	"context"
	"io"

	"tandem/backup"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/ota"
	"tandem/packaging/bundle"
	"tandem/packaging/delta/encode"
	"tandem/packaging/trust"
)

// The release that partial bundles are of, and the one before it.
const (
	progBefore = "1.0.0-prog"
	prog       = "1.1.0-prog"
)

// opener gives a bundle from its beginning.
type opener = func() (io.ReadCloser, error)

// partialScenarios install a release of which not all is carried, or fetched: by a
// delta bundle and by ranges, and what they fall back to.
func partialScenarios() []*scenario {
	byDelta := func() (*ota.Installer, opener) {
		whole := func(context.Context, func(backup.Path) bool) (opener, error) { return reading(bundleOf(prog)), nil }
		return &ota.Installer{Rest: whole}, reading(deltaOf(progBefore, prog))
	}
	byRange := func() (*ota.Installer, opener) {
		r := &ranges{whole: bundleOf(prog)}
		r.here = make([]byte, len(r.whole))
		r.fetch(func(p backup.Path) bool { return release(prog)[string(p)] != release(progBefore)[string(p)] })
		complete := func(_ context.Context, want func(backup.Path) bool) error { r.fetch(want); return nil }
		return &ota.Installer{Complete: complete}, func() (io.ReadCloser, error) { return reading(r.here)() }
	}
	lose := func(name string) func(d *device) {
		return func(d *device) {
			for _, side := range sides {
				must(d.fs(side).Remove("apps/" + name))
			}
		}
	}
	damage := func(name string) func(d *device) {
		return func(d *device) {
			for _, side := range sides {
				d.damage(side, name)
			}
		}
	}
	from := func(name string, prepare func(*device), source func() (*ota.Installer, opener)) *scenario {
		return &scenario{name: "install, " + name, goal: prog, prepare: prepare, work: func(d *device) error {
			in, open := source()
			if err := d.installWith(in, open, trust.Options{Time: d.m.Now(), AllowUnsigned: true}, backup.InstallOptions{Both: true}); err != nil {
				return err
			}
			return d.boot()
		}}
	}
	before := installed(progBefore)
	// A boot does not see that the file has gone bad.
	damaged := from("by a delta bundle, a file of its base is damaged", then(before, damage("bin/prog")), byDelta)
	damaged.recover = (*device).repair
	return []*scenario{
		from("by a delta bundle", before, byDelta),
		from("by a delta bundle, a file of its base is lost", then(before, lose("bin/prog")), byDelta),
		damaged,
		from("by a delta bundle for another release", installed("1.0.0"), byDelta),
		from("by ranges", before, byRange),
		from("by ranges, a file that was here is lost", then(before, lose("share/deep/er/file")), byRange),
	}
}

// reading gives a bundle that is in memory.
func reading(data []byte) opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// ranges is a bundle of which some is here, and zeros in the place of the rest.
type ranges struct{ whole, here []byte }

// fetch gets the head, and the frames that hold what want names.
func (r *ranges) fetch(want func(backup.Path) bool) {
	h := get(bundle.ReadHead(bytes.NewReader(r.whole), bundle.Inspect{}))
	copy(r.here[:h.Length()], r.whole)
	h.Frames(want, func(at int64, f bundle.Frame) { copy(r.here[at:at+f.Length], r.whole[at:]) })
	copy(r.here[h.Length()+h.Parts().Payload():], r.whole[h.Length()+h.Parts().Payload():]) // zeros
}

// deltaOf makes the delta bundle between two versions, once.
func deltaOf(from, to string) []byte {
	name := from + " to " + to
	if b, ok := bundles.Load(name); ok {
		return b.([]byte)
	}
	archive := func(version string) *bundle.Archive {
		data := bundleOf(version)
		return get(bundle.OpenArchive(context.Background(), bytes.NewReader(data), int64(len(data)), bundle.Inspect{}))
	}
	fs := memfs.NewMachine().NewDisk("build", memfs.Options{}).FS()
	must(bundle.MakeDelta(context.Background(), archive(from), archive(to), fs, "delta", bundle.DeltaOptions{Maker: encode.NewPool(1, 0)}))
	data := get(fsys.ReadFile(fs, "delta", 1<<24))
	bundles.Store(name, data)
	return data
}
