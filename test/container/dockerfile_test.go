package container

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// image is what of an image matters to whoever runs it.
type image struct {
	Root       string // its files
	User       string
	Dir        string
	Entrypoint []string
	Cmd        []string
	Health     []string
}

// dockerfile makes images as a Dockerfile says, without an engine. It knows the
// instructions that ours has. The files of the stage that builds lie in its scratch
// folder: what RUN finds below /out is there, too.
type dockerfile struct {
	dir    string // for scratch files
	out    string // what is /out where it builds
	args   map[string]string
	images map[string]*image
}

// readDockerfile carries out all of it.
func readDockerfile(t *testing.T) map[string]*image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerfile{dir: t.TempDir(), args: map[string]string{}, images: map[string]*image{}}
	d.out = filepath.Join(d.dir, "out")
	source := filepath.Join(d.dir, "src")
	var now *image // nil in the stage that builds
	for _, line := range instructions(string(text)) {
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		var err error
		switch {
		case word == "FROM":
			now, err = d.from(rest)
		case word == "ARG":
			name, value, _ := strings.Cut(rest, "=")
			if d.args[name] == "" {
				d.args[name] = value
			}
		case now == nil && word == "WORKDIR":
			err = os.MkdirAll(source, 0o755)
		case now == nil && word == "COPY" && rest == ". .":
			err = copySources(source)
		case now == nil && word == "COPY":
			err = sh(root, "mkdir -p "+source+" && cp -r --parents -t "+source+" "+strings.Join(strings.Fields(rest)[:len(strings.Fields(rest))-1], " "))
		case now == nil && word == "RUN" && rest == "go mod download":
			err = replacements(source)
		case now == nil && word == "RUN":
			err = d.run(source, rest)
		case word == "COPY":
			err = d.copy(now, rest)
		case word == "USER":
			now.User = rest
		case word == "WORKDIR":
			now.Dir = rest
		case word == "LABEL":
		case word == "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &now.Entrypoint)
		case word == "CMD":
			err = json.Unmarshal([]byte(rest), &now.Cmd)
		case word == "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			err = json.Unmarshal([]byte(command), &now.Health)
		default:
			err = fmt.Errorf("this is not known here")
		}
		if err != nil {
			t.Fatalf("Dockerfile: %s: %v", line, err)
		}
	}
	return d.images
}

// instructions are the lines of a Dockerfile, without comments, each whole.
func instructions(text string) (all []string) {
	whole := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "#") || whole == "" && strings.TrimSpace(line) == "" {
			continue
		}
		part, goesOn := strings.CutSuffix(line, `\`)
		whole += part
		if !goesOn {
			all, whole = append(all, whole), ""
		}
	}
	return all
}

func (d *dockerfile) from(rest string) (*image, error) {
	base, name, ok := strings.Cut(rest, " AS ")
	switch {
	case !ok:
		return nil, fmt.Errorf("a stage without a name")
	case name == "build":
		return nil, nil
	case base != "scratch":
		return nil, fmt.Errorf("an image of nothing else was expected")
	}
	i := &image{Root: filepath.Join(d.dir, name), Dir: "/"}
	d.images[name] = i
	return i, os.MkdirAll(i.Root, 0o755)
}

// copySources copies what the project has under version control, as a builder gets it
// that leaves out what .dockerignore names.
func copySources(to string) error {
	return sh(root, "git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "+to)
}

// replacements wants each module that lies in a folder of the project to be there
// before modules are downloaded.
func replacements(source string) error {
	text, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return err
	}
	for _, m := range regexp.MustCompile(`=> (\./\S+)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(source, m[1], "go.mod")); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerfile) run(source, script string) error {
	var env strings.Builder
	for name, value := range d.args {
		fmt.Fprintf(&env, "export %s='%s'; ", name, value)
	}
	return sh(source, "set -e; "+env.String()+strings.ReplaceAll(script, "/out/", d.out+"/"))
}

func (d *dockerfile) copy(to *image, rest string) error {
	owner, from, target := "0:0", "", ""
	for _, word := range strings.Fields(rest) {
		switch name, value, _ := strings.Cut(word, "="); {
		case name == "--chown":
			owner = value
		case name == "--from" && value == "build":
		case strings.HasPrefix(word, "--"):
			return fmt.Errorf("%s is not known here", word)
		case from == "":
			from = word
		default:
			target = word
		}
	}
	staged := filepath.Join(d.dir, "staged")
	return sh(d.dir, fmt.Sprintf("rm -rf %[1]s && cp -a %[2]s %[1]s && chown -R %[3]s %[1]s && mkdir -p %[4]s && cp -a %[1]s/. %[4]s",
		staged, d.out+strings.TrimPrefix(from, "/out"), owner, filepath.Join(to.Root, target)))
}

func sh(dir, script string) error {
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}
