package device

import (
	"errors"
	"path"
	"strings"

	"tandem/backup/record"
	"tandem/internal/fsys"
)

// Author is who writes the files of ours on this device, and in which format.
func (d *Device) Author() record.Author {
	return record.Author{Version: d.env.Version, Format: d.env.Format}
}

// Known makes sure that nothing on the sides and in the agent's state was made by a
// newer Tandem. The error wraps record.ErrNewer else: then nothing is begun that would
// write there. What cannot be used for another reason is told where it is needed.
func (d *Device) Known() error {
	if err := d.reconciler.Known(); err != nil {
		return err
	}
	return d.knownState()
}

// knownState is Known for the agent's state, and for what lies beside the program.
func (d *Device) knownState() error {
	if own, err := d.itself(); own != nil && err == nil {
		if err := own.Newer(); err != nil {
			return err
		}
	}
	if d.stateKnown {
		return nil
	}
	disk, err := fsys.OpenOS(d.cfg.Agent.State)
	if err != nil {
		return nil // whoever needs it says so
	}
	err = newerIn(disk)
	d.stateKnown = err == nil
	return errors.Join(err, disk.Close())
}

// stateFiles are the files of ours in the agent's state.
var stateFiles = []string{
	"agent.json", "hawkbit.json", "history*.jsonl", "trust/poll.json", "trust/time.json", "firmware/*/record.json", "firmware/*/proof.json",
	"downloads/*.boot", "downloads/*.spent", "downloads/*.whole",
}

// newerIn returns a *record.NewerError if a newer Tandem made a file of ours in the
// agent's state; the error is one of those of record.Newer.
func newerIn(disk fsys.FS) error {
	for _, pattern := range stateFiles {
		names := []string{"."}
		for element := range strings.SplitSeq(pattern, "/") {
			var below []string
			for _, dir := range names {
				if !strings.Contains(element, "*") {
					below = append(below, path.Join(dir, element))
					continue
				}
				entries, err := disk.ReadDir(dir)
				if fsys.IsTransient(err) {
					return err
				}
				for _, e := range entries {
					if ok, err := path.Match(element, e.Name); ok && err == nil {
						below = append(below, path.Join(dir, e.Name))
					}
				}
			}
			names = below
		}
		if err := record.Newer(disk, names...); err != nil {
			return err
		}
	}
	return nil
}
