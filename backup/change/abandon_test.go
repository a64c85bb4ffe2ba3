package change

import (
	"io"
	"path"
	"slices"
	"testing"

	"tandem/backup/manifest"
	"tandem/backup/record"
	"tandem/internal/fsys"
	"tandem/internal/fsys/memfs"
	"tandem/versioning"
)

// A commit.json that goes bad between a power cut and the next start costs nothing that
// only the undo log has: it goes aside.
func TestAbandonedCommit(t *testing.T) {
	fs := memfs.NewMachine().NewDisk("system", memfs.Options{}).FS()
	content := path.Join(oldDir, contentDir)
	for _, dir := range []string{newDir, content, path.Join(oldDir, oddDir)} {
		if err := fsys.MkdirAll(fs, dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{path.Join(oldDir, oddDir, "3"): "not captured", path.Join(content, "sum"): "captured", CommitFile: "garbage"} {
		if err := fsys.WriteFile(fs, name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Recover(fs, true, record.Author{}); err != nil {
		t.Fatal(err)
	}
	list, err := ListAside(fs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range list {
		text, err := fsys.ReadFile(fs, it.Name, 100)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(it.Path)+": "+string(text))
	}
	if want := []string{"interrupted/old/files/sum: captured", "interrupted/old/odd/3: not captured"}; !slices.Equal(got, want) {
		t.Errorf("aside lies %q, want %q", got, want)
	}
	for _, name := range []string{CommitFile, nextDir} {
		if _, err := fs.Lstat(name); !fsys.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// What lies in the place of a staged record or tag after a power cut keeps no recovery from
// its end: the record and the other side tell what lacks, and the tag is known.
func TestStagedOwnFilesLost(t *testing.T) {
	for _, name := range []string{"record", TagFile} {
		fs := memfs.NewMachine().NewDisk("system", memfs.Options{}).FS()
		v, err := versioning.Parse("1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		r := &record.Record{Manifest: manifest.Manifest{Version: v}}
		body, err := r.Body()
		if err != nil {
			t.Fatal(err)
		}
		if err := fsys.MkdirAll(fs, path.Join(nextDir, name, "below"), 0o700); err != nil {
			t.Fatal(err)
		}
		err = fsys.WriteFileFrom(fs, RecordFile, 0o600, func(w io.Writer) error { return r.Write(w, record.Author{}, body) })
		if err == nil {
			err = fsys.WriteFile(fs, TagFile, []byte("0.9.0\n"), 0o644)
		}
		if err == nil {
			err = (&commit{Version: v, Record: body.Sum, Tag: true}).store(fs, record.Author{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Recover(fs, true, record.Author{}); err != nil {
			t.Fatalf("a directory in the place of %s: %v", name, err)
		}
		if !versioning.IsTag(fs, TagFile, v) {
			t.Errorf("a directory in the place of %s: the tag is not %s", name, v)
		}
		if _, err := fs.Lstat(CommitFile); !fsys.IsNotExist(err) {
			t.Errorf("a directory in the place of %s: the commit is still there: %v", name, err)
		}
	}
}
