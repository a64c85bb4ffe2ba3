package bundle

import "slices"

const (
	sketchWindow = 24
	sketchSize   = 128
	// minAlike is how many hashes two files share at least that are alike.
	minAlike = 4
)

// A sketch is the smallest hashes of all windows of a file, sorted: files that have much in
// common share many.
type sketch []uint64

func newSketch(b []byte) sketch {
	const factor = 0x9E3779B97F4A7C15
	var h uint64
	out := uint64(1) // what a byte counts for that leaves the window
	for range sketchWindow {
		out *= factor
	}
	var s sketch
	limit := ^uint64(0)
	for i, c := range b {
		h = h*factor + uint64(c) + 1
		if i >= sketchWindow {
			h -= (uint64(b[i-sketchWindow]) + 1) * out
		}
		if i+1 < sketchWindow {
			continue
		}
		x := (h ^ h>>29) * 0xBF58476D1CE4E5B9
		x ^= x >> 32
		if x >= limit {
			continue
		}
		if s = append(s, x); len(s) == 4*sketchSize {
			if s = s.smallest(); len(s) == sketchSize {
				limit = s[sketchSize-1]
			}
		}
	}
	return s.smallest()
}

func (s sketch) smallest() sketch {
	slices.Sort(s)
	s = slices.Compact(s)
	return s[:min(len(s), sketchSize)]
}

// alike returns how many of the smallest hashes of both are in both.
func (s sketch) alike(t sketch) int {
	i, j, both := 0, 0, 0
	for n := 0; n < sketchSize && i < len(s) && j < len(t); n++ {
		switch {
		case s[i] < t[j]:
			i++
		case s[i] > t[j]:
			j++
		default:
			i, j, both = i+1, j+1, both+1
		}
	}
	return both
}
