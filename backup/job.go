package backup

import (
	"context"
	"errors"
	"fmt"

	"tandem/backup/record"
	"tandem/internal/digest"
)

// job is one thing that is done to both sides, with all looks and tries that it takes.
type job struct {
	looker
	fresh    bool // nothing was looked at yet, and the sides need not be read if they rest
	forget   Path // configuration that is still to be forgotten; "" for none
	forgot   Path // what was, but for what could not be removed
	shutdown bool // the machine is about to stop
	lessons
	asked   bool       // the application was asked to hold still
	release func()     // lets it go on
	mended  string     // what the disk did not give before the last round, which wrote it anew
	total   *Result    // of all rounds
	seen    bool       // the indexes that were made last tell of all that lies there
	noted   []SideName // the sides that an orderly end was noted on
}

// lessons are what a job ran into. Its next look heeds them, or it would run into the
// same again.
type lessons struct {
	left     map[SideName]map[Path]bool // these are not to be tried again
	restless map[Path]bool              // directories whose configuration does not come to rest
	large    map[Path]bool              // configuration that usr_data has no room for
	short    *SpaceError                // how much it would have needed
	badKept  map[kept]bool              // contents that are damaged where they are kept for a rollback
	stuck    error                      // why a side cannot be as it should; all else is done
	frozen   SideName                   // the side that cannot be written at all: nothing is captured
	waited   bool                       // for stamps to grow old
	tries    int                        // that ended because somebody wrote
}

func newJob(r *Reconciler, o Options) *job {
	sets := func() map[SideName]map[Path]bool { return map[SideName]map[Path]bool{System: {}, UsrData: {}} }
	return &job{
		looker: looker{
			r: r, full: o.Full, suspects: sets(), weak: sets(), known: map[digest.SHA256]*record.Record{},
			made: map[SideName]digest.SHA256{}, notes: map[SideName]bool{},
		},
		fresh: !o.Full && !o.Shutdown && o.Forget == "", forget: o.Forget, shutdown: o.Shutdown,
		release: func() {}, total: &Result{},
		lessons: lessons{left: sets(), restless: map[Path]bool{}, large: map[Path]bool{}, badKept: map[kept]bool{}},
	}
}

// clear reports whether a job has nothing to look at but what its sides hold.
func (j *job) clear() bool {
	left := len(j.weak[System]) + len(j.weak[UsrData]) + len(j.left[System]) + len(j.left[UsrData])
	return left+len(j.restless)+len(j.large) == 0 && j.forget == "" && !j.shutdown
}

// again waits where a job ended because somebody wrote what it took, and reports whether
// it is worth another try. It returns the error of a job that ends.
func (j *job) again(ctx context.Context, err error) (bool, error) {
	var stale *staleError
	switch {
	case !errors.As(err, &stale):
		return false, err
	case j.tries+1 == moments:
		return false, fmt.Errorf("%s: files keep changing while they are copied: stop the application first: %w", stale.side, ErrBusy)
	}
	j.tries++
	j.r.Log.WithField("file", stale.path).Debug("changed while it was copied; copying it again")
	j.suspects[stale.side][stale.path] = true
	if err := j.r.wait(ctx, rest); err != nil {
		return false, err
	}
	return true, nil
}
