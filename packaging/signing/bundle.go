package signing

import (
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/packaging/bundle"
	"tandem/packaging/trust"
)

// Keys gives what signs for a role.
type Keys interface {
	Signers(role string) ([]signature.Signer, error)
}

// ForBundle returns what signs a bundle's targets metadata with the targets keys
// of keys. The error wraps ErrKey if devices that trust root would refuse each
// of them; those that they would not count are left out.
func ForBundle(keys Keys, root *trust.Root) (func(*bundle.Targets) error, error) {
	all, err := keys.Signers(metadata.TARGETS)
	if err != nil {
		return nil, err
	}
	var signers []signature.Signer
	for _, s := range all {
		public, err := s.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("targets key: %w", err)
		}
		key, err := metadata.KeyFromPublicKey(public)
		if err != nil {
			return nil, err
		}
		id, err := key.ID()
		if err != nil {
			return nil, err
		}
		if root.HasKey(metadata.TARGETS, id) {
			signers = append(signers, s)
		}
	}
	if len(signers) == 0 {
		name := "targets key"
		if n, ok := all[0].(fmt.Stringer); ok {
			name = n.String()
		}
		return nil, fmt.Errorf("%s: %w: version %d of the root does not name it for targets", name, ErrKey, root.Version())
	}
	return func(t *bundle.Targets) error {
		for _, s := range signers {
			if _, err := t.Sign(s); err != nil {
				return fmt.Errorf("sign targets metadata: %w", err)
			}
		}
		return nil
	}, nil
}
