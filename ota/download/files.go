package download

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/ota/fault"
)

// Drop removes what is here for an application or firmware that has nothing to
// download. It is no error if that fails: the next download for it tidies up.
func (d *Downloader) Drop(who string) {
	all, err := d.downloads()
	if err != nil {
		return
	}
	for _, e := range all {
		if e.who != who {
			continue
		}
		if err := fsys.RemoveAll(d.o.FS, e.name); err != nil {
			d.o.Log.WithError(err).Debug("a download that is of no use any more stays")
		}
	}
}

// doubt cuts from a part what another run of the machine wrote last: a power
// cut may have torn it. A byte after a place to sync at was written only once
// all before that place was synced. It gives what is left.
//
// Until this run is noted the note is that of another, or none: whenever the
// power goes, no more is believed than is right.
func (t *transfer) doubt(have int64) (int64, error) {
	if t.o.wroteHere(t.boot) {
		return have, nil
	}
	if have > 0 {
		sure := (have - 1) / t.f.step() * t.f.step()
		t.o.Log.Debugf("the last %d bytes of the part may be torn: fetched again", have-sure)
		have = sure
		// By its path, as it is written.
		if err := os.Truncate(t.o.FS.Path(t.part), have); err != nil {
			return 0, err
		}
	}
	return have, t.o.By.Write(t.o.FS, bootKind, t.boot, t.o.Boot, 0o644)
}

// wroteHere reports whether this run of the machine wrote what the note is of.
// Without the note another run did.
func (o *Options) wroteHere(note string) bool {
	var boot string
	_, err := record.ReadJSON(o.FS, bootKind, note, maxNote, &boot)
	return err == nil && boot != "" && boot == o.Boot
}

// The notes beside a download, each a file of ours.
const (
	bootKind  = "boot"  // a text: the boot id
	spentKind = "spent" // a number of bytes
	wholeKind = "whole" // true
	maxNote   = 4096    // bytes
)

var (
	validFor     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) })
	downloadName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.)?([0-9a-f]{64}|[0-9a-f]{128})\.(part|bundle|frames|whole|whole\.tmp|boot|boot\.tmp|spent|spent\.tmp)$`)
	})
)

// download is a file that a download left.
type download struct {
	name string // below FS
	who  string // whom it is for
	stem string
	size int64
	note bool // of the run of the machine, or of what was spent
	// spent says that it is that of what was spent.
	spent bool
}

// downloads lists what downloads have left. A file that is not ours is not there.
func (d *Downloader) downloads() ([]download, error) {
	entries, err := d.o.FS.ReadDir(downloadDir)
	if err != nil {
		return nil, err
	}
	var all []download
	for _, e := range entries {
		if m := downloadName().FindStringSubmatch(e.Name); m != nil {
			stem := m[2]
			if m[1] != "" {
				stem = m[1] + "." + stem
			}
			all = append(all, download{
				name: path.Join(downloadDir, e.Name), who: m[1], stem: path.Join(downloadDir, stem), size: e.Size,
				note: m[3] != "part" && m[3] != "bundle" && m[3] != "frames", spent: strings.HasPrefix(m[3], "spent"),
			})
		}
	}
	return all, nil
}

// tidy removes other files for the same, and those for nobody here.
func (t *transfer) tidy() error {
	all, err := t.downloads()
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.stem == t.f.stem() || e.spent && e.stem == t.meter.stem || e.who != t.f.For && e.who != "" && (t.o.For == nil || slices.Contains(t.o.For, e.who)) {
			continue
		}
		if err := fsys.RemoveAll(t.o.FS, e.name); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom removes files for others where there is no room for all, but none
// that has come further than this one, unless nothing can come of it.
func (t *transfer) makeRoom(have, need int64) error {
	all, err := t.downloads()
	if err != nil {
		return err
	}
	free, err := t.free()
	if err != nil {
		return err
	}
	var ahead int64
	var whose []string
	for _, e := range all {
		switch {
		case e.stem == t.f.stem(), e.note:
		case e.size > have && !t.hopeless[e.who]:
			ahead += e.size
			whose = append(whose, e.who)
		case free < need+t.f.Room:
			t.o.Log.Infof("%s: removed to make room", t.o.FS.Path(e.name))
			if err := fsys.RemoveAll(t.o.FS, e.name); err != nil {
				return err
			}
			if free, err = t.free(); err != nil {
				return err
			}
		}
	}
	where := t.o.FS.Path(".")
	switch {
	case free < need+t.f.Room && free+ahead >= need+t.f.Room:
		return fmt.Errorf("%w: the download needs %d bytes more and %d to unpack, %d are free in %s until what was downloaded for %s is installed",
			fault.ErrNoSpace, need, t.f.Room, free, where, strings.Join(whose, ", "))
	case free < need:
		return fmt.Errorf("%w: the download needs %d bytes more, %d are free in %s", fault.ErrNoSpace, need, free, where)
	}
	return nil
}

func (t *transfer) free() (int64, error) {
	space, err := t.o.FS.Space()
	return space.Free, err
}

// verify reports whether the complete copy is here. One that is damaged is removed.
func (t *transfer) verify() (bool, error) {
	file, err := t.o.FS.Open(t.bundle)
	if fsys.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	h, want := t.f.hash()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, io.LimitReader(file, t.f.Size+1), make([]byte, 64<<10))
	if err == nil && n == t.f.Size && bytes.Equal(h.Sum(nil), want) {
		return true, nil
	}
	t.o.Log.Warnf("%s is damaged: fetched again", t.o.FS.Path(t.bundle))
	return false, t.o.FS.Remove(t.bundle)
}

// size returns the length of the part, 0 if there is none.
func (t *transfer) size() (int64, error) {
	info, err := t.o.FS.Lstat(t.part)
	if fsys.IsNotExist(err) {
		return 0, nil
	}
	return info.Size, err
}

// discard removes the part.
func (t *transfer) discard() error {
	if err := t.o.FS.Remove(t.part); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	return nil
}
