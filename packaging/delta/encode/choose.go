package encode

import "tandem/packaging/delta/internal/codec"

// choose returns the mode that foretells fewest bytes wrong, the present one
// if none is better.
func choose(t *codec.Trial, present codec.Mode) codec.Mode {
	wrong := t.Wrong(present)
	best, least := present, wrong[0]+wrong[1]
	if least == 0 {
		return best
	}
	for _, m := range codeModes(t.Layout) {
		if w := t.Wrong(m); w[0]+w[1] < least {
			best, least = m, w[0]+w[1]
		}
	}
	// Rules for data are chosen for even and odd words apart.
	rules, fewest := [2]codec.Rule{}, t.Wrong(codec.ModeNone)
	for r := codec.RuleAbsolute; r < t.Layout.DataRules(); r++ {
		w := t.Wrong(codec.ModeData(r, r))
		for odd := range w {
			if w[odd] < fewest[odd] {
				rules[odd], fewest[odd] = r, w[odd]
			}
		}
	}
	if fewest[0]+fewest[1] < least {
		best = codec.ModeData(rules[0], rules[1])
	}
	return best
}

// codeModes returns the rules for the code of a program.
func codeModes(l *codec.Layout) []codec.Mode {
	var m []codec.Mode
	switch l.Arch {
	case codec.ARM:
		m = append(m, codec.ModeThumb, codec.ModeA32)
	case codec.ARM64:
		m = append(m, codec.ModeA64)
	case codec.AMD64:
		m = append(m, codec.ModeAMD64)
	}
	if l.Functions > 0 {
		m = append(m, codec.ModeGoFuncs)
	}
	return m
}
