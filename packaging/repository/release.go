package repository

import (
	"encoding/json"
	"path"
	"strconv"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/release"
)

// File gives the file that holds the bundle of r, relative to the repository.
func File(r release.Target) string { return path.Join(targetsDir, r.FileName()) }

// targetOf gives the release's entry in targets metadata. What has its default
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
		setRollout(fields, r.Rollout)
	})
}

func setRollout(fields map[string]json.RawMessage, percent int) {
	delete(fields, "rollout")
	if percent != 100 {
		fields["rollout"] = json.RawMessage(strconv.Itoa(percent))
	}
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
