package bundle

// Checker checks frames, one at a time.
type Checker struct {
	dec   *decoder
	plain []byte
}

// NewChecker makes a Checker.
func NewChecker() (*Checker, error) {
	dec, err := newDecoder()
	return &Checker{dec: dec}, err
}

// Check returns why data is not the whole of frame f, its checksum included.
// That says nothing about who made it.
func (c *Checker) Check(data []byte, f Frame) error {
	plain, err := c.dec.decode(data, f.Size, c.plain)
	if err == nil {
		c.plain = plain
	}
	return err
}
