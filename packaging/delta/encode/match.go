package encode

import (
	"context"
	"encoding/binary"
	"math/bits"

	"tandem/packaging/delta/internal/codec"
)

var le = binary.LittleEndian

// A matcher finds where the old file holds what the new one does.
type matcher struct {
	old    []byte
	sorted []int32
	starts []int32 // of those that begin with each two bytes
}

func newMatcher(old []byte) *matcher {
	m := &matcher{old: old}
	if len(old) < 2 {
		return m
	}
	m.sorted = suffixArray(old)
	m.starts = make([]int32, 1<<16+1)
	for i := range old[1:] {
		m.starts[int(old[i])<<8+int(old[i+1])+1]++
	}
	// The last byte alone comes before all that begin with it.
	m.starts[int(old[len(old)-1])<<8]++
	for i := range m.starts[1:] {
		m.starts[i+1] += m.starts[i]
	}
	return m
}

// longest returns how much of text begins a suffix of the old file, and where.
func (m *matcher) longest(text []byte) (length, at int) {
	lo, hi := 0, len(m.sorted) // the first suffix that is not before text is between them
	if len(text) >= 2 {
		k := int(text[0])<<8 + int(text[1])
		lo, hi = int(m.starts[k]), int(m.starts[k+1])
	}
	below, above := 0, 0 // how much of text the suffixes beside lo and hi share, at least
	for lo < hi {
		x := (lo + hi) / 2
		s := m.old[m.sorted[x]:]
		k := min(below, above)
		k += common(s[k:], text[k:])
		if k < len(text) && (k == len(s) || s[k] < text[k]) {
			lo, below = x+1, k
		} else {
			hi, above = x, k
		}
	}
	first := min(max(lo-1, 0), len(m.sorted)-2)
	a, b := int(m.sorted[first]), int(m.sorted[first+1])
	if x, y := common(m.old[a:], text), common(m.old[b:], text); x > y {
		return x, a
	} else {
		return y, b
	}
}

// common returns how many bytes a and b begin alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := le.Uint64(a[i:]) ^ le.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// operations covers the new file with copies of similar parts of the old one, as Colin
// Percival's bsdiff does: it leaves an alignment for another only where that
// agrees in more than slack bytes more.
func (m *matcher) operations(ctx context.Context, new []byte, slack int) ([]codec.Op, error) {
	if len(m.old) < 2 {
		return []codec.Op{{Extra: int32(len(new))}}, nil
	}
	var ops []codec.Op
	var (
		scan, length, at int // what is looked at, and the longest match there
		done, from       int // the new file is covered up to done, which goes with from
	)
	agrees := func(i int) bool { // of the new byte at i with the present alignment
		j := i + from - done
		return j >= 0 && j < len(m.old) && m.old[j] == new[i]
	}
	for scan < len(new) {
		score := 0 // how many of the length bytes agree with the present alignment
		scan += length
		for counted := scan; scan < len(new); scan++ {
			if scan&0x3ff == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			length, at = m.longest(new[scan:])
			for ; counted < scan+length; counted++ {
				if agrees(counted) {
					score++
				}
			}
			if length == score && length != 0 || length > score+slack {
				break
			}
			if agrees(scan) {
				score--
			}
		}
		if length == score && scan < len(new) {
			continue // the present alignment does as well
		}
		forward := extend(scan-done, func(i int) (bool, bool) {
			return from+i < len(m.old), from+i < len(m.old) && m.old[from+i] == new[done+i]
		})
		back := 0
		if scan < len(new) {
			back = extend(scan-done, func(i int) (bool, bool) {
				return at > i, at > i && m.old[at-i-1] == new[scan-i-1]
			})
		}
		if both := done + forward - (scan - back); both > 0 {
			// Where they overlap, each has what it foretells better.
			a, b := from+forward-both, at-back
			best, most, score := 0, 0, 0
			for i := range both {
				score += toInt(m.old[a+i] == new[scan-back+i]) - toInt(m.old[b+i] == new[scan-back+i])
				if score > most {
					best, most = i+1, score
				}
			}
			forward += best - both
			back -= best
		}
		ops = append(ops, codec.Op{
			Old: int32(from), New: int32(done), Copy: int32(forward), Extra: int32(scan - back - done - forward),
		})
		done, from = scan-back, at-back
	}
	return ops, nil
}

// extend returns over how many of n bytes it pays to copy: where most agree.
// For each, in order, at reports whether there is one and whether it agrees.
func extend(n int, at func(i int) (there, agrees bool)) int {
	best, most, score := 0, 0, 0
	for i := range n {
		there, agrees := at(i)
		if !there {
			break
		}
		score += 2*toInt(agrees) - 1
		if score > most {
			best, most = i+1, score
		}
	}
	return best
}

func toInt(is bool) int {
	if is {
		return 1
	}
	return 0
}
