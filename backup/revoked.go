package backup

import (
	"errors"
	"fmt"

	"tandem/internal/fsys"
	"tandem/versioning"
)

// maxRevoked bounds revoked.json in bytes.
const maxRevoked = 1 << 20

// revoked is the content of revoked.json.
type revoked struct {
	Versions []versioning.Version `json:"versions"`
}

// loadRevoked reads the revoked versions of a side. A damaged list counts as
// none: the other side has it too.
func loadRevoked(fs fsys.FS) ([]versioning.Version, error) {
	data, err := readSealed(fs, revokedFile, maxRevoked)
	if errors.Is(err, ErrInvalid) || data == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r revoked
	if err := unseal("revoked", data, &r); errors.Is(err, ErrInvalid) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.Path(revokedFile), err)
	}
	return r.Versions, nil
}

func saveRevoked(fs fsys.FS, versions []versioning.Version) error {
	data, err := seal("revoked", revoked{versions})
	if err != nil {
		return err
	}
	if err := ownPlace(fs, revokedFile); err != nil {
		return err
	}
	if err := fsys.WriteFile(fs, revokedFile, data, 0o644); err != nil {
		return err
	}
	return fs.SyncDir(".")
}
