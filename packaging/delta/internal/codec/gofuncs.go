package codec

// funcState is where the walk over Go's _func structures stands.
type funcState struct {
	at                 int // the old offset that comes next
	inStep             bool
	word               int64 // within the structure
	npcdata, nfuncdata int64
}

const (
	funcWords = 11 // before the offsets of pcdata
	maxTables = 64
)

// goFuncs predicts the _func structures of a Go program: what the runtime
// knows of each function, by offsets into tables.
func (p *predictor) goFuncs(c *piece, dst []byte, sites []site) []site {
	l, f := p.layout, &p.funcs
	if c.shift()&3 != 0 || l.Functions == 0 || len(l.Bases) == 0 {
		return sites
	}
	i := c.word(0)
	if !f.inStep || f.at != c.from+i {
		f.inStep = false
		at, ok := p.nextFunc(int64(c.from + i))
		if !ok || at < int64(c.from+i) || at >= int64(c.from+c.size) || (at-int64(c.from+i))&3 != 0 {
			return sites
		}
		*f = funcState{at: int(at), inStep: true}
		i = int(at) - c.from
	}
	for ; i+4 <= c.size; i += 4 {
		w := le.Uint32(c.old[i:])
		base, scale := -1, uint32(0)
		switch {
		case f.word == 0:
			base = BaseText
		case f.word == 1:
			base = BaseNames
		case f.word >= 4 && f.word <= 6:
			base = BasePctab
		case f.word == 7:
			f.npcdata = int64(w)
		case f.word == 8:
			base, scale = BaseCutab, 2
		case f.word == 10:
			f.nfuncdata = int64(w >> 24)
			if f.npcdata > maxTables || f.nfuncdata > maxTables {
				f.inStep = false
				return sites
			}
		case f.word >= funcWords && f.word < funcWords+f.npcdata:
			base = BasePctab
		case f.word >= funcWords && f.word < funcWords+f.npcdata+f.nfuncdata && w != 1<<32-1:
			base = BaseGofunc
		}
		if base >= 0 && (base != BasePctab || w != 0) {
			b := l.Bases[base]
			t := uint32(b.Old) + w<<scale
			if v, ok := p.address(t); ok {
				le.PutUint32(dst[i:], (v-uint32(b.New))>>scale)
				k := kindRelative
				if base == BaseCutab {
					k = kindCutab
				}
				sites = append(sites, site{i, 4, k, t, uint32(base)})
			}
		}
		f.word++
		if f.word >= funcWords+f.npcdata+f.nfuncdata && f.word >= funcWords &&
			(l.Pointer < 8 || (int64(c.from+i)+4-l.Functab)&7 == 0) {
			f.word, f.npcdata, f.nfuncdata = 0, 0, 0
		}
	}
	f.at = c.from + i
	return sites
}

// nextFunc returns where the first structure at or after an offset of the old
// file is: the table of functions lists them in order.
func (p *predictor) nextFunc(from int64) (int64, bool) {
	l := p.layout
	at := func(i int64) int64 {
		return l.Functab + int64(le.Uint32(p.functab.bytes(int(l.Functab+8*i+4), 4)))
	}
	lo, hi := int64(0), l.Functions
	for lo < hi {
		if m := (lo + hi) / 2; at(m) >= from {
			hi = m
		} else {
			lo = m + 1
		}
	}
	if lo == l.Functions {
		return 0, false
	}
	return at(lo), true
}
