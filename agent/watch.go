package agent

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"

	"tandem/backup"
)

// maxWatched bounds the directories that are watched, each of which costs the
// kernel about a kilobyte. A tree with more is scanned.
const maxWatched = 2000

// watch tells when something below a directory may have changed. Where the
// kernel cannot tell it, Scans says so, and the caller has to look by itself.
type watch struct {
	dir     string // apps of the side
	ignored func(backup.Path) bool
	changed chan<- struct{} // with room for one
	log     logrus.FieldLogger

	version string // whose tree it is, for the owner
	notify  *fsnotify.Watcher
	blind   atomic.Bool   // not all is watched any more: the tree has to be scanned
	done    chan struct{} // closed when the goroutine has ended
}

// startWatch watches the tree below dir, and dir's own name, until stop. changed
// receives after each change, a second one only once the first was taken. A path
// that ignored names is not watched. The error says that the tree has to be
// scanned instead.
func startWatch(dir string, ignored func(backup.Path) bool, changed chan<- struct{}, log logrus.FieldLogger) (*watch, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watch{dir: dir, ignored: ignored, changed: changed, log: log, notify: notify, done: make(chan struct{})}
	// The directory above tells when a version takes the place of another.
	err = notify.Add(filepath.Dir(dir))
	if err == nil {
		err = w.add(dir)
	}
	if err != nil {
		notify.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// add watches a directory and those below it. What vanishes meanwhile is
// someone else's change, and told as such.
func (w *watch) add(dir string) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.IsDir() {
			return nil
		}
		if w.skips(name) {
			return fs.SkipDir
		}
		if len(w.notify.WatchList()) >= maxWatched {
			return errTooMany
		}
		if err := w.notify.Add(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

var errTooMany = errors.New("too many directories to watch")

// skips reports whether a change of name is of no interest.
func (w *watch) skips(name string) bool {
	if name == w.dir {
		return false
	}
	p, below := strings.CutPrefix(name, w.dir+"/")
	if !below { // a neighbour of apps, such as the tag; .tandem is our own
		return filepath.Base(name) == ".tandem"
	}
	return w.ignored(backup.Path(p))
}

// run takes the kernel's events until the watch is closed.
func (w *watch) run() {
	defer close(w.done)
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if w.skips(e.Name) {
				continue
			}
			if e.Has(fsnotify.Create) && strings.HasPrefix(e.Name, w.dir) {
				if err := w.add(e.Name); err != nil {
					w.blind.Store(true)
					w.log.WithError(err).Warn("a new directory is not watched: the tree is scanned from now on")
				}
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			// Events were lost: whatever they were, looking finds it.
			w.log.WithError(err).Debug("watching the configuration")
		}
		select {
		case w.changed <- struct{}{}:
		default: // one is waiting to be taken
		}
	}
}

// stop ends the watch. Nothing is sent after it.
func (w *watch) stop() {
	w.notify.Close() // it has nothing to flush
	<-w.done
}

// How edits are gathered, so that a file that is still being written is not
// captured over and over. Together with the capture itself they stay within the
// five seconds in which an edit is to be backed up.
const (
	editQuiet    = time.Second      // without a change before a capture
	editPatience = 30 * time.Second // a tree that never rests is captured all the same
	captureEvery = time.Minute      // in the long run; so that a steady writer does not wear out the flash
	captureBurst = 10               // edits may come faster than that for a while
	scanShare    = 50               // a scan may take one part in so many of the time
	scanEvery    = 4 * time.Second  // where the kernel does not tell what changes
	watchRetry   = 10 * time.Minute // until it is asked again whether it can
)

// edits is what is known of changes that are not captured yet.
type edits struct {
	First, Last time.Time // zero: none
}

// seen adds a change.
func (e *edits) seen(now time.Time) {
	if e.First.IsZero() {
		e.First = now
	}
	e.Last = now
}

// due is when they are to be captured; zero: never.
func (e *edits) due() time.Time {
	if e.First.IsZero() {
		return time.Time{}
	}
	return sooner(e.Last.Add(editQuiet), e.First.Add(editPatience))
}
