package repository

import (
	"encoding/json"
	"path"
	"strconv"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/release"
)

// File returns the file that holds the bundle of r, relative to the repository.
func File(r release.Target) string { return path.Join(targetsDir, r.FileName()) }

// targetOf returns the release's entry in targets metadata. What has its default
// value is left out: a device reads this for each release.
func targetOf(r *release.Target) (*metadata.TargetFiles, error) {
	custom, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	t := &metadata.TargetFiles{
		Length: r.Length,
		Hashes: metadata.Hashes{"sha256": metadata.HexBytes(r.SHA256[:])},
		Custom: (*json.RawMessage)(&custom),
	}
	return t, editCustom(t, func(fields map[string]json.RawMessage) {
		if r.Kind == release.App {
			delete(fields, "kind")
		}
	})
}

// setChannel changes how a release is offered in a channel, and leaves alone what
// else is said of it there; nil takes it out of the channel.
func setChannel(fields map[string]json.RawMessage, channel string, o *release.Offering) error {
	all := map[string]map[string]json.RawMessage{}
	if err := json.Unmarshal(fields["channels"], &all); err != nil {
		return err
	}
	if o == nil {
		delete(all, channel)
	} else {
		there := all[channel]
		if there == nil {
			there = map[string]json.RawMessage{}
		}
		delete(there, "rollout")
		if o.Rollout != 100 {
			there["rollout"] = json.RawMessage(strconv.Itoa(o.Rollout))
		}
		setYanked(there, o.Yanked)
		all[channel] = there
	}
	raw, err := json.Marshal(all)
	fields["channels"] = raw
	return err
}

func setRecall(fields map[string]json.RawMessage, recall *release.Recall) error {
	delete(fields, "recall")
	if recall == nil {
		return nil
	}
	raw, err := json.Marshal(recall)
	fields["recall"] = raw
	return err
}

func setYanked(fields map[string]json.RawMessage, yanked bool) {
	delete(fields, "yanked")
	if yanked {
		fields["yanked"] = json.RawMessage("true")
	}
}

// editCustom changes fields of a target's custom field, and leaves those alone
// that this program does not know.
func editCustom(t *metadata.TargetFiles, edit func(map[string]json.RawMessage)) error {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(*t.Custom, &fields); err != nil {
		return err
	}
	edit(fields)
	custom, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	t.Custom = (*json.RawMessage)(&custom)
	return nil
}
