package backup

// Ignored gives what tells whether a path below apps/ is none of Tandem's
// business, by the patterns of the manifest that the side's files are judged by.
func (s *Snapshot) Ignored() func(Path) bool {
	m := s.manifest()
	return m.isIgnored
}

// manifest gives the patterns of the manifest that the side is judged by.
func (s *Snapshot) manifest() Manifest {
	if s.basis == nil {
		return s.patterns
	}
	m := &s.basis.Manifest
	return Manifest{Config: m.Config, Ignore: m.Ignore}
}
