package fsys

// Slow returns a file system like fs whose files are read no faster than wait
// allows: it is told how many bytes were read, and its error ends the reading.
func Slow(fs FS, wait func(n int) error) FS { return &slow{fs, wait} }

type slow struct {
	FS
	wait func(n int) error
}

func (s *slow) Open(name string) (File, error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &slowFile{f, s.wait}, nil
}

type slowFile struct {
	File
	wait func(n int) error
}

func (f *slowFile) Read(p []byte) (int, error) { return f.slowed(f.File.Read(p)) }

func (f *slowFile) ReadAt(p []byte, off int64) (int, error) {
	return f.slowed(f.File.ReadAt(p, off))
}

func (f *slowFile) slowed(n int, err error) (int, error) {
	if n > 0 {
		if e := f.wait(n); e != nil {
			return 0, e
		}
	}
	return n, err
}
