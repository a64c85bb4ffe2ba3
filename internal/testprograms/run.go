package testprograms

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

// Run runs tests that drive both programs, and returns their exit code. Before, prepare
// is told of a new folder that is theirs: the programs are in bin, and pub takes what they
// install. More tests run at once than there are processors, unless the command line says
// how many: most of them wait, for the disk, time to pass, or a server that does not answer.
func Run(m *testing.M, prepare func(bin, pub string) error) int {
	code, err := run(m, prepare)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func run(m *testing.M, prepare func(bin, pub string) error) (int, error) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
			return 0, err
		}
	}
	dir, err := os.MkdirTemp("", "tandem-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bin, pub := filepath.Join(dir, "bin"), filepath.Join(dir, "pub")
	if err := Build(bin, Small(), "tandem/cmd/tandem", "tandem/cmd/tandem-release"); err != nil {
		return 0, err
	}
	if err := os.Mkdir(pub, 0o755); err != nil {
		return 0, err
	}
	if err := prepare(bin, pub); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
