package fsys

// ReadAgain returns a file system like fs that opens a file, or reads from it, a
// second time when the first try finds it unreadable. What flash cannot correct
// at one moment it often can at the next, and what is taken for damage is
// replaced: a single failure is too little to lose an edit for.
func ReadAgain(fs FS) FS { return &readAgain{fs} }

type readAgain struct{ FS }

func (r *readAgain) Open(name string) (File, error) {
	f, err := r.FS.Open(name)
	if IsUnreadable(err) {
		f, err = r.FS.Open(name)
	}
	if err != nil {
		return nil, err
	}
	return &againFile{f}, nil
}

type againFile struct{ File }

// Read reads where the first try has left off: an error moves nothing.
func (f *againFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if n == 0 && IsUnreadable(err) {
		n, err = f.File.Read(p)
	}
	return n, err
}

// ReadAt does what Read does.
func (f *againFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if n == 0 && IsUnreadable(err) {
		n, err = f.File.ReadAt(p, off)
	}
	return n, err
}
