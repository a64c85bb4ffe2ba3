package fsys

// ReadAgain returns a file system like fs that opens or reads a file, a directory, a link
// or attributes a second time when the first try finds them unreadable. What flash cannot correct
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

func (r *readAgain) ReadDir(name string) ([]Info, error) {
	infos, err := r.FS.ReadDir(name)
	if IsUnreadable(err) {
		infos, err = r.FS.ReadDir(name)
	}
	return infos, err
}

func (r *readAgain) Readlink(name string) (string, error) {
	target, err := r.FS.Readlink(name)
	if IsUnreadable(err) {
		target, err = r.FS.Readlink(name)
	}
	return target, err
}

func (r *readAgain) Xattrs(name string) (map[string][]byte, error) {
	x, err := r.FS.Xattrs(name)
	if IsUnreadable(err) {
		x, err = r.FS.Xattrs(name)
	}
	return x, err
}

type againFile struct{ File }

func (f *againFile) Stat() (Info, error) {
	i, err := f.File.Stat()
	if IsUnreadable(err) {
		i, err = f.File.Stat()
	}
	return i, err
}

func (f *againFile) Xattrs() (map[string][]byte, error) {
	x, err := f.File.Xattrs()
	if IsUnreadable(err) {
		x, err = f.File.Xattrs()
	}
	return x, err
}

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
