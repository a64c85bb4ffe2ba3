package backup

import "sync"

// each calls f for 0 to n-1, two at once if AtOnce allows it, and returns the error of the
// first that failed. After an error no more are begun.
func (r *Reconciler) each(n int, f func(i int) error) error {
	var (
		mu    sync.Mutex
		next  int
		first error
		at    int // whose error that is
	)
	take := func() (i int, more bool) {
		mu.Lock()
		defer mu.Unlock()
		i = next
		next++
		return i, i < n && first == nil
	}
	work := func() {
		for i, more := take(); more; i, more = take() {
			if err := f(i); err != nil {
				mu.Lock()
				if first == nil || i < at {
					first, at = err, i
				}
				mu.Unlock()
			}
		}
	}
	var other sync.WaitGroup
	if r.AtOnce && n > 1 {
		other.Go(work)
	}
	work()
	other.Wait()
	return first
}
