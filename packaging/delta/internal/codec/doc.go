// Package codec is what the two directions of a patch share: the coder of
// bits, the model that says how likely each is, and the prediction of the new
// bytes from the old ones. The same code runs in both; only the coder knows
// whether it takes bits from a patch or puts them into one. So what the encoder
// believed, the decoder believes, too.
//
// The format is specified in docs/formats.md, "Patches". All of it is made of
// integers of a fixed size, so that the bytes are the same on every machine.
package codec

import "errors"

// ErrMalformed means that a patch is not what the format allows.
var ErrMalformed = errors.New("malformed patch")

const (
	// MaxLength is how long a file may be.
	MaxLength = 512 << 20
	// MaxOperations is how many operations a patch may have.
	MaxOperations = 1 << 16
	// block is what a piece of a copy does not reach across, in the new file.
	block = 512
	// ahead is how far a prediction looks beyond its piece.
	ahead = 16
)
