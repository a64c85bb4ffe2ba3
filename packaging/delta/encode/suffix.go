package encode

import "math/bits"

// suffixArray returns where the suffixes of text begin, in their order; of two
// of which one begins the other, the shorter comes first. It takes
// about eight bytes of memory for each of text, the result included.
//
// The way is that of Nong, Zhang and Chan: sort the suffixes that begin a rise
// after a fall ("marks"), if need be by names in a text of at most half the
// length, and derive the order of all others from theirs.
func suffixArray(text []byte) []int32 {
	sa := make([]int32, len(text))
	sortSuffixes(text, sa, 256)
	return sa
}

func sortSuffixes[T byte | int32](s []T, sa []int32, alphabet int) {
	n := len(s)
	if n < 2 {
		clear(sa)
		return
	}
	b := newBuckets(s, alphabet)
	marks := findMarks(s)

	// Sort the stretches from mark to mark.
	for i := range sa {
		sa[i] = none
	}
	b.toEnds()
	for i := range marks.all() {
		sa[b.last(int(s[i]))] = int32(i)
	}
	induce(s, sa, b)

	// Collect the marks in the order of their stretches, and name these.
	m := 0
	for _, v := range sa {
		if marks.has(int(v)) {
			sa[m] = v
			m++
		}
	}
	names := nameStretches(s, sa, m, marks)

	// Sort the marks by the names from each on.
	order, reduced := sa[:m], sa[n-m:]
	if names < m {
		sortSuffixes(reduced, order, names)
	} else {
		for i, name := range reduced {
			order[name] = int32(i)
		}
	}
	i := 0
	for at := range marks.all() {
		reduced[i] = int32(at)
		i++
	}
	for i, v := range order {
		order[i] = reduced[v]
	}

	// Put them at the ends of their buckets, and the others by them.
	for i := m; i < n; i++ {
		sa[i] = none
	}
	b.toEnds()
	for i := m - 1; i >= 0; i-- {
		v := sa[i]
		sa[i] = none
		sa[b.last(int(s[v]))] = v
	}
	induce(s, sa, b)
}

const none = -1

// induce puts all suffixes in their places, once the marks are at the ends of
// their buckets in order.
func induce[T byte | int32](s []T, sa []int32, b *buckets) {
	// Those that fall, by what is after them: the end of the text comes first.
	n := len(s)
	b.toStarts()
	sa[b.first(int(s[n-1]))] = int32(n - 1)
	for _, v := range sa {
		if v > 0 && s[v-1] >= s[v] {
			sa[b.first(int(s[v-1]))] = v - 1
		}
	}
	// Those that rise, from the end; in a bucket they are above those that fall.
	b.toEnds()
	for i := n - 1; i >= 0; i-- {
		v := sa[i]
		if v > 0 && (s[v-1] < s[v] || s[v-1] == s[v] && int32(i) >= b.at[s[v]]) {
			sa[b.last(int(s[v-1]))] = v - 1
		}
	}
}

// nameStretches leaves in the last m of sa, in the order of the text, a number
// for the stretch of each mark: equal for equal ones, and in their order. It
// returns how many there are. The first m of sa are the marks in that order.
func nameStretches[T byte | int32](s []T, sa []int32, m int, marks bitset) int {
	// Marks are at least two apart: half the place tells them apart.
	n := len(s)
	names := sa[m:]
	for i := range names {
		names[i] = none
	}
	last := none
	for i := range marks.all() {
		if last != none {
			names[last/2] = int32(i - last + 1)
		}
		last = i
	}
	if last != none {
		names[last/2] = int32(n - last + 1) // it ends with the text
	}
	count, before, length := 0, 0, int32(0)
	for _, v := range sa[:m] {
		at := int(v)
		l := names[at/2]
		if l != length || !sameStretch(s, before, at, int(l)) {
			count++
		}
		before, length = at, l
		names[at/2] = int32(count - 1)
	}
	to := len(names)
	for i := len(names) - 1; i >= 0; i-- {
		if names[i] != none {
			to--
			names[to] = names[i]
		}
	}
	return count
}

func sameStretch[T byte | int32](s []T, a, b, n int) bool {
	if max(a, b)+n > len(s) {
		return false
	}
	for i := range n {
		if s[a+i] != s[b+i] {
			return false
		}
	}
	return true
}

// buckets are the parts of a suffix array by the first letter.
type buckets struct {
	count []int32
	at    []int32
}

func newBuckets[T byte | int32](s []T, alphabet int) *buckets {
	b := &buckets{make([]int32, alphabet), make([]int32, alphabet)}
	for _, v := range s {
		b.count[v]++
	}
	return b
}

func (b *buckets) toStarts() {
	sum := int32(0)
	for i, n := range b.count {
		b.at[i] = sum
		sum += n
	}
}

func (b *buckets) toEnds() {
	sum := int32(0)
	for i, n := range b.count {
		sum += n
		b.at[i] = sum
	}
}

// first takes the first free place of a bucket, last the last one.
func (b *buckets) first(v int) int32 { b.at[v]++; return b.at[v] - 1 }
func (b *buckets) last(v int) int32  { b.at[v]--; return b.at[v] }

// A bitset is a set of places.
type bitset []uint64

// findMarks returns where s begins to rise after it fell; it falls at its end.
func findMarks[T byte | int32](s []T) bitset {
	marks := make(bitset, (len(s)+63)/64)
	rises := false
	for i := len(s) - 2; i >= 0; i-- {
		now := s[i] < s[i+1] || s[i] == s[i+1] && rises
		if rises && !now {
			marks[(i+1)/64] |= 1 << ((i + 1) % 64)
		}
		rises = now
	}
	return marks
}

func (b bitset) has(i int) bool { return i >= 0 && b[i/64]>>(i%64)&1 == 1 }

// all yields the places in order.
func (b bitset) all() func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for k, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(k*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}
