package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRaceDetectorSeesGoroutines wants each package that starts goroutines among those
// that make race runs.
func TestRaceDetectorSeesGoroutines(t *testing.T) {
	const root = "../.."
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(string(makefile), "\nCONCURRENT = ")
	value, _, _ = strings.Cut(value, "\n")
	raced := strings.Fields(list(t, append([]string{"-f", "{{.Dir}}"}, strings.Fields(strings.ReplaceAll(value, "./", module+"/"))...)...))
	for _, layer := range layers {
		err := filepath.WalkDir(filepath.Join(root, layer), func(name string, _ os.DirEntry, err error) error {
			if err != nil || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(filepath.Dir(name))
			if err == nil && starts(file) && !slices.Contains(raced, dir) {
				t.Errorf("%s starts goroutines: its package belongs in CONCURRENT of the Makefile", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// starts reports whether a file has a go statement, or a call of sync.WaitGroup.Go.
func starts(file *ast.File) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.SelectorExpr:
			found = found || n.Sel.Name == "Go"
		}
		return !found
	})
	return found
}
