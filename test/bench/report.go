package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figure is the median of a program's runs at a job.
type figure struct {
	Job        string   `json:"job"`
	Program    string   `json:"program"`
	Missing    string   `json:"missing,omitempty"` // why it is not measured
	WallMS     float64  `json:"wall_ms,omitempty"`
	WallMinMS  float64  `json:"wall_min_ms,omitempty"`
	WallMaxMS  float64  `json:"wall_max_ms,omitempty"`
	CPUMS      float64  `json:"cpu_ms,omitempty"`
	PeakMiB    float64  `json:"peak_mib,omitempty"`
	PeakLess   bool     `json:"peak_is_bound,omitempty"` // the peak is at most that
	WrittenMiB float64  `json:"written_mib"`
	WallRatio  *float64 `json:"tandem_wall_ratio,omitempty"` // tandem's wall time to this one's
	CPURatio   *float64 `json:"tandem_cpu_ratio,omitempty"`
}

type treeReport struct {
	Tree       treeSpec `json:"tree"`
	Runs       int      `json:"runs"`
	PayloadMiB float64  `json:"payload_mib"` // of its bundle
	Figures    []figure `json:"figures"`
	Air        []air    `json:"air,omitempty"` // what an update takes from a server
}

type report struct {
	Seed  uint64       `json:"seed"`
	Runs  int          `json:"runs"`
	Notes []string     `json:"notes"`
	Trees []treeReport `json:"trees"`
}

func median[T any, N cmp.Ordered](s []T, of func(T) N) N {
	v := make([]N, len(s))
	for i := range s {
		v[i] = of(s[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// figures sums up a job. Its first program is what the peers are compared with.
func figures(j job, samples [][]sample) []figure {
	var all []figure
	for i, p := range j.programs {
		f := figure{Job: j.name, Program: p.name, Missing: p.missing}
		if s := samples[i]; p.missing == "" {
			wall := func(s sample) time.Duration { return s.wall }
			f.WallMS, f.CPUMS = ms(median(s, wall)), ms(median(s, func(s sample) time.Duration { return s.cpu }))
			byWall := func(a, b sample) int { return cmp.Compare(a.wall, b.wall) }
			f.WallMinMS, f.WallMaxMS = ms(slices.MinFunc(s, byWall).wall), ms(slices.MaxFunc(s, byWall).wall)
			f.PeakMiB = mib(median(s, func(s sample) int64 { return s.peak }))
			f.PeakLess = slices.ContainsFunc(s, func(s sample) bool { return s.peakLess })
			f.WrittenMiB = mib(median(s, func(s sample) int64 { return s.written }))
			if !p.tandem {
				wall, cpu := all[0].WallMS/f.WallMS, all[0].CPUMS/f.CPUMS
				f.WallRatio, f.CPURatio = &wall, &cpu
			}
		}
		all = append(all, f)
	}
	return all
}

func (r *report) print(w io.Writer) error {
	for _, n := range r.Notes {
		fmt.Fprintf(w, "%s\n", n)
	}
	for _, t := range r.Trees {
		fmt.Fprintf(w, "\n%s", t.Tree)
		if t.PayloadMiB > 0 {
			fmt.Fprintf(w, "; %.1f MiB as a bundle", t.PayloadMiB)
		}
		if t.Runs != r.Runs {
			fmt.Fprintf(w, "; runs: %d", t.Runs)
		}
		fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if len(t.Figures) > 0 {
			fmt.Fprintln(tw, "job\tprogram\twall ms\tmin-max\tcpu ms\tpeak MiB\twritten MiB\ttandem's wall\tcpu")
		}
		last := ""
		for _, f := range t.Figures {
			job := f.Job
			if job == last {
				job = ""
			}
			last = f.Job
			if f.Missing != "" {
				fmt.Fprintf(tw, "%s\t%s\tnot measured: %s\n", job, f.Program, f.Missing)
				continue
			}
			peak := fmt.Sprintf("%.1f", f.PeakMiB)
			if f.PeakLess {
				peak = "< " + peak
			}
			fmt.Fprintf(tw, "%s\t%s\t%.1f\t%.1f-%.1f\t%.1f\t%s\t%.2f\t%s\t%s\n", job, f.Program,
				f.WallMS, f.WallMinMS, f.WallMaxMS, f.CPUMS, peak, f.WrittenMiB, times(f.WallRatio), times(f.CPURatio))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		if t.Air != nil {
			fmt.Fprintf(tw, "%s\tKB\t\n", onAir)
		}
		for _, a := range t.Air {
			fmt.Fprintf(tw, "%s\t%.1f\t%.2f ×\n", a.Form, a.KB, a.Ratio)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func times(ratio *float64) string {
	if ratio == nil {
		return ""
	}
	return fmt.Sprintf("%.2f ×", *ratio)
}
