package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Check looks whether a program could be run now: whether it is there and may be
// executed, and of a script whether its interpreter is and whether it was written
// with the line ends of Unix. The error wraps ErrNotRun and names the program. It
// is no promise: what Check finds good may be gone a moment later.
func Check(argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("%w: no program is named", ErrNotRun)
	}
	if err := check(argv); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	return nil
}

func check(argv []string) error {
	name, err := find(argv[0])
	if err == nil {
		err = checkFile(name, 0)
	}
	if err != nil || len(argv) == 1 {
		return err
	}
	rest := argv[1:]
	switch base := filepath.Base(argv[0]); {
	case base == "busybox":
		if isShell(rest[0]) {
			return checkShell(rest[1:])
		}
	case isShell(base):
		return checkShell(rest)
	case readsScript(base) && !strings.HasPrefix(rest[0], "-"):
		_, err = os.Stat(rest[0])
	case slices.Contains([]string{"env", "nice", "nohup", "setsid"}, base):
		if base == "env" {
			rest = rest[assignments(rest):]
		}
		if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			return check(rest)
		}
	}
	return err
}

// assignments counts the words that env takes for variables, before the program.
func assignments(words []string) int {
	n := 0
	for n < len(words) && strings.Contains(words[n], "=") && !strings.HasPrefix(words[n], "-") {
		n++
	}
	return n
}

// find returns the file that would be executed for the first word of a command.
func find(word string) (string, error) {
	name, err := exec.LookPath(word)
	if err == nil {
		return name, nil
	}
	var e *exec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%s: it may not be executed: %w", word, syscall.EACCES)
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return "", fmt.Errorf("%s: %w", word, err)
}

var errNoFile = errors.New("is no regular file")

// maxHead is how much of a file is looked at: the kernel reads less of the line
// that names an interpreter.
const maxHead = 4096

// head reads it. Only a regular file can be a program or a script that stays what it
// is; to open a FIFO would wait for its other end.
func head(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: name, Err: errNoFile}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxHead))
}

// checkFile looks whether the kernel could execute a file that may be executed. It is
// the interpreter of depth other ones.
func checkFile(name string, depth int) error {
	data, err := head(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil // a program need not be readable
	}
	if err != nil {
		return err
	}
	line, script := bytes.CutPrefix(data, []byte("#!"))
	switch {
	case bytes.HasPrefix(data, []byte("\ufeff")):
		return fmt.Errorf(`%s: it begins with a byte order mark: expected "#!" or a program`, name)
	case script:
		return checkInterpreter(name, line, depth)
	case !bytes.ContainsRune(data, 0): // text, or nothing at all
		return fmt.Errorf(`%s: it is no program, and its first line does not name an interpreter, as in "#!/bin/sh"`, name)
	}
	return checkBinary(name, data)
}

// maxDepth is how many scripts the kernel takes for interpreters of each other.
const maxDepth = 4

// checkInterpreter looks at the first line of a script, without its #!.
func checkInterpreter(name string, text []byte, depth int) error {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if bytes.HasSuffix(line, []byte("\r")) {
		return crlf(name)
	}
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return fmt.Errorf("%s: its first line names no interpreter", name)
	}
	info, err := os.Stat(words[0])
	if err == nil && (info.Mode()&0o111 == 0 || !info.Mode().IsRegular()) {
		err = &fs.PathError{Op: "run", Path: words[0], Err: syscall.EACCES}
	}
	if err == nil && depth < maxDepth {
		err = checkFile(words[0], depth+1)
	}
	if err == nil && filepath.Base(words[0]) == "env" && len(words) > 1 {
		// The kernel gives all that follows as one word, which -S splits.
		if words = words[1:]; words[0] != "-S" {
			_, rest, _ := strings.Cut(strings.TrimSpace(string(line)), "env")
			words = []string{strings.TrimSpace(rest)}
		} else {
			words = words[1:]
		}
		if words = words[assignments(words):]; len(words) > 0 && !strings.HasPrefix(words[0], "-") {
			_, err = exec.LookPath(words[0])
		}
	}
	if err != nil {
		return fmt.Errorf("%s: its interpreter: %w", name, err)
	}
	return nil
}

func crlf(name string) error {
	return fmt.Errorf(`%s: its lines end in \r\n: expected \n alone`, name)
}

// isShell reports whether a program is a shell, by its name.
func isShell(name string) bool {
	return slices.Contains([]string{"sh", "ash", "bash", "dash", "ksh", "zsh"}, filepath.Base(name))
}

// readsScript reports whether a program reads the script that its first argument names.
func readsScript(name string) bool {
	return slices.ContainsFunc([]string{"python", "perl", "lua", "ruby", "node", "php"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// checkShell looks at the script that a shell is given with args; with -c or -s there is none.
func checkShell(args []string) error {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return checkScript(a)
		}
		if strings.ContainsAny(a[1:], "cos-") { // or an option with a word of its own
			break
		}
	}
	return nil
}

// checkScript looks at a script that a shell is given.
func checkScript(name string) error {
	data, err := head(name)
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/") {
		if found, e := exec.LookPath(name); e == nil { // a shell looks there, too
			data, err = head(found)
		}
	}
	if err != nil {
		return err
	}
	if line, _, ended := bytes.Cut(data, []byte("\n")); ended && bytes.HasSuffix(line, []byte("\r")) {
		return crlf(name)
	}
	return nil
}

// cause says of the error of a program that could not be started what is wrong
// with it: for a script without its interpreter the kernel only says that there is
// no such file.
func cause(argv []string, err error) error {
	if found := check(argv); found != nil {
		return found
	}
	return err
}
