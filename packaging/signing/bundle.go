package signing

import (
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/bundle"
	"tandem/packaging/trust"
)

// ForBundle gives what signs a bundle's targets metadata with the targets key
// of keys. The error wraps ErrKey if devices that trust root would refuse it.
func ForBundle(keys Dir, root *trust.Root) (func(*bundle.Targets) error, error) {
	key, err := Load(keys.FS, metadata.TARGETS)
	if err != nil {
		return nil, err
	}
	public, err := key.Public()
	if err != nil {
		return nil, err
	}
	id, err := public.ID()
	if err != nil {
		return nil, err
	}
	if !root.HasKey(metadata.TARGETS, id) {
		return nil, fmt.Errorf("%s: %w: version %d of the root does not name it for targets", keys.FS.Path(fileName(metadata.TARGETS)), ErrKey, root.Version())
	}
	signer, err := key.Signer()
	if err != nil {
		return nil, err
	}
	return func(t *bundle.Targets) error {
		if _, err := t.Sign(signer); err != nil {
			return fmt.Errorf("sign targets metadata: %w", err)
		}
		return nil
	}, nil
}
