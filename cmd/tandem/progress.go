package main

import (
	"github.com/schollz/progressbar/v3"
)

// progress shows how far something has come: as a bar on a terminal, as a line
// at each quarter elsewhere, not at all if that is not wanted.
type progress struct {
	p       *program
	what    string
	bar     *progressbar.ProgressBar
	quarter int64
}

func newProgress(p *program) *progress { return &progress{p: p} }

// small is below what is worth showing, in bytes.
const small = 1 << 20

func (g *progress) report(what string, done, total int64) {
	if g.p.quiet || total < small {
		return
	}
	if what != g.what {
		g.end()
		g.what, g.quarter = what, 0
		if g.p.terminal {
			g.bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(g.p.stderr),
				progressbar.OptionSetDescription(what),
				progressbar.OptionShowBytes(true),
				progressbar.OptionClearOnFinish(),
				progressbar.OptionThrottle(barThrottle))
		}
	}
	if g.bar != nil {
		_ = g.bar.Set64(min(done, total)) // the terminal may be gone
		return
	}
	if q := done * 4 / total; q > g.quarter {
		g.quarter = q
		g.p.say("tandem: %s: %d %% of %s", what, done*100/total, size(total))
	}
}

func (g *progress) end() {
	if g.bar != nil {
		_ = g.bar.Finish() // the terminal may be gone
		g.bar = nil
	}
	g.what = ""
}
