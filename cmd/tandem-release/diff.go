package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tandem/backup"
	"tandem/backup/manifest"
	"tandem/internal/cli"
	"tandem/internal/digest"
	"tandem/internal/text"
	"tandem/packaging/bundle"
)

// difference is what an update from one release to another takes.
type difference struct {
	App   string `json:"app"`
	From  string `json:"from"`
	To    string `json:"to"`
	Files struct {
		All       int   `json:"all"` // of the new release
		Changed   int   `json:"changed"`
		Added     int   `json:"added"`
		Removed   int   `json:"removed"`
		NewBytes  int64 `json:"new_bytes"` // of contents that the old release has nowhere
		AllBytes  int64 `json:"all_bytes"`
		Unchanged int   `json:"unchanged"`
	} `json:"files"`
	Forms []formCost `json:"forms"` // the cheapest first
}

// formCost is what a form of the release costs a device that runs the old one.
type formCost struct {
	Form     string  `json:"form"`
	Bytes    int64   `json:"bytes"`
	Percent  float64 `json:"percent"` // of the whole bundle
	Requests int     `json:"requests"`
}

func newBundleDiffCommand(p *program) *cobra.Command {
	var (
		delta  string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "diff OLD NEW [--delta DELTA]",
		Short: "Say what an update from one release to another costs",
		Long: `Say what changed from the bundle OLD to the bundle NEW, and what an update costs a
device that runs OLD, in each form: the whole bundle, or only those frames of it that
hold files which the device lacks. That takes a server that can send parts of files;
the head of the bundle is part of it, and so are small gaps between frames that are
fetched at once. Contents are compared wherever they lie: a file that was only moved
or copied costs nothing. With --delta the delta bundle DELTA is a form, too.`,
		Example: `  tandem-release bundle diff hello-1.0.0.tandem hello-1.1.0.tandem`,
		Args:    cli.Exactly("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			names := args
			if delta != "" {
				names = append(slices.Clone(args), delta)
			}
			heads := make([]*bundle.Head, len(names))
			for i, name := range names {
				b, err := p.openBundle(cmd.Context(), name, "", "")
				if err != nil {
					return err
				}
				defer b.Close()
				if heads[i], err = b.look(cmd.Context(), false); err != nil {
					return err
				}
			}
			d, err := compare(heads)
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(names, ", "), err)
			}
			if asJSON {
				return p.document(d)
			}
			return d.print(p)
		},
	}
	cmd.Flags().StringVar(&delta, "delta", "", "delta `BUNDLE` from OLD to NEW")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// compare compares two bundles; the third, if there is one, is a delta bundle
// between them.
func compare(heads []*bundle.Head) (*difference, error) {
	old, now := heads[0], heads[1]
	a, b, size := old.Manifest(), now.Manifest(), now.Size()
	if a == nil || b == nil {
		return nil, errors.New("one is a delta bundle: expected whole ones")
	}
	if len(heads) > 2 {
		switch d := heads[2].Parts().Delta; {
		case d == nil || d.Base.Release != old.Release():
			return nil, errors.New("the delta bundle does not build on the old release")
		case heads[2].Release() != now.Release():
			return nil, errors.New("the delta bundle does not carry the new release")
		}
	}
	if a.App != b.App || a.Kind != b.Kind {
		return nil, fmt.Errorf("they carry %s and %s: expected two releases of one application", a.App, b.App)
	}
	d := &difference{App: b.App, From: a.Version.String(), To: b.Version.String()}
	before := map[backup.Path]digest.SHA256{}
	have := map[digest.SHA256]bool{}
	for i := range a.Files {
		if e := &a.Files[i]; e.Type == manifest.File {
			before[e.Path] = *e.SHA256
			have[*e.SHA256] = true
		}
	}
	lacks := map[backup.Path]bool{}
	for i := range b.Files {
		e := &b.Files[i]
		if e.Type != manifest.File {
			continue
		}
		d.Files.All++
		d.Files.AllBytes += e.Size
		switch sum, ok := before[e.Path]; {
		case !ok:
			d.Files.Added++
		case sum != *e.SHA256:
			d.Files.Changed++
		default:
			d.Files.Unchanged++
		}
		delete(before, e.Path)
		if !have[*e.SHA256] {
			lacks[e.Path] = true
			d.Files.NewBytes += e.Size
		}
	}
	d.Files.Removed = len(before)
	add := func(form string, bytes int64, requests int) {
		d.Forms = append(d.Forms, formCost{form, bytes, float64(bytes*1000/size) / 10, requests})
	}
	bytes, requests := now.Cost(func(p backup.Path) bool { return lacks[p] })
	add("frames", bytes, requests)
	add("bundle", size, 1)
	if len(heads) > 2 {
		add("delta", heads[2].Size(), 1)
	}
	slices.SortStableFunc(d.Forms, func(x, y formCost) int { return cmp.Compare(x.Bytes, y.Bytes) })
	return d, nil
}

func (d *difference) print(p *program) error {
	f := &d.Files
	fmt.Fprintf(p.stdout, "%s %s to %s: %d of %d files changed, %d added, %d removed; %s of %s are new\n",
		d.App, d.From, d.To, f.Changed, f.All, f.Added, f.Removed, text.Size(f.NewBytes), text.Size(f.AllBytes))
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FORM\tDOWNLOAD\tOF THE BUNDLE\tREQUESTS")
	for _, c := range d.Forms {
		fmt.Fprintf(w, "%s\t%s\t%.1f %%\t%d\n", c.Form, text.Size(c.Bytes), c.Percent, c.Requests)
	}
	return w.Flush()
}
