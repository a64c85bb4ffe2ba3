package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// Every command pays for what the packages prepare before main, whether it uses that or
// not. So what is costly, such as a regular expression, is made when it is needed first.
func TestPackagesPrepareLittle(t *testing.T) {
	t.Parallel()
	const most = 30 // allocations of a package: a few dozen errors, and no expression
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ours := regexp.MustCompile(`(?m)^init (tandem/\S+) .* (\d+) allocs$`).FindAllStringSubmatch(string(out), -1)
	seen := map[string]bool{}
	tests := []string{"tandem/cmd/tandem", "tandem/internal/manpage"} // with the tests' own, or of theirs alone
	for _, m := range ours {
		seen[m[1]] = true
		if n, _ := strconv.Atoi(m[2]); n > most && !slices.Contains(tests, m[1]) {
			t.Errorf("%s makes %d allocations when the program starts, expected at most %d: see sync.OnceValue", m[1], n, most)
		}
	}
	if !seen["tandem/backup"] {
		t.Errorf("tandem/backup is not listed:\n%s", out)
	}
}
