package backup

// Ignored gives what tells whether a path below apps/ is none of Tandem's
// business, by the patterns of the manifest that the side's files are judged by.
func (s *Snapshot) Ignored() func(Path) bool {
	patterns := split{config: s.split.config, ignore: s.split.ignore}
	return patterns.isIgnored
}
