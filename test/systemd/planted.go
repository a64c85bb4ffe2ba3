package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/packaging/release"
)

// bug is a mistake that the package does not make: a script that is run in what is
// unpacked of it, and an edit of Tandem's sources.
type bug struct {
	name, step string // the step that has to fail
	script     string
	edit       edit
}

// edit replaces text that a file has exactly once.
type edit struct{ file, old, new string }

const (
	agentUnit = "usr/lib/systemd/system/tandem-agent.service"
	bootUnit  = "usr/lib/systemd/system/tandem-boot.service"
)

// bugs are planted one after the other: each has to be found.
var bugs = []bug{
	{
		name: "nothing is done when the machine ends", step: "the machine ends in order right after the application removed something",
		script: "sed -i /^ExecStop=/d " + bootUnit,
	},
	{
		name: "an agent that the watchdog killed stays down", step: "the daemon is stopped, or crashes, in the midst of an installation",
		script: "sed -i 's/^Restart=.*/Restart=on-success/' " + agentUnit,
	},
	{
		name: "an agent that crashed counts as one with a wrong configuration", step: "the daemon is stopped, or crashes, in the midst of an installation",
		script: "sed -i 's/^RestartPreventExitStatus=.*/RestartPreventExitStatus=2 78/' " + agentUnit,
	},
	{
		name: "a bind mount of the same file system counts as mounted", step: "the disk of usr_data is missing, with nofail",
		edit: edit{"internal/mounts/mounts.go", "	if err != nil || !ok || real == \"/\" {\n", "	if err != nil || dir != \"\" {\n"},
	},
	{
		name: "a command does not hand its file over", step: "a bundle in /tmp, /root, /home",
		edit: edit{"cmd/tandem/remote.go", "			return handover.Offer(conn, f), nil\n", "			_ = handover.Offer(conn, f)\n			return conn, nil\n"},
	},
	{
		name: "the sample is a file that dpkg asks about", step: "the package is upgraded in the midst of an installation",
		script: "cp usr/share/doc/tandem/examples/tandem.toml etc/tandem.toml && echo /etc/tandem.toml >>DEBIAN/conffiles",
	},
	{
		name: "hooks run in the sandbox", step: "hooks, a handler and a source that the sandbox would forbid",
		edit: edit{"internal/child/child.go", "	case p.Outside.run == \"\":\n", "	case p.Outside.run != \"\":\n"},
	},
	{
		name: "what was disabled is enabled by the package", step: "the package is removed and installed again",
		script: `sed -i 's/deb-systemd-helper --quiet was-enabled "$unit"/true/' DEBIAN/postinst`,
	},
	{
		name: "a new Tandem is another process", step: "Tandem updates itself",
		edit: edit{"cmd/tandem/self.go", "	env = append(os.Environ(), env...)\n", "	env = append(os.Environ(), env...)\n	os.Exit(1)\n"},
	},
}

// tellsSoon is how long something may take that does not happen because of a bug.
const tellsSoon = 150 * time.Second

// plantAll plants each bug, and wants it to be found in its step and in no other.
func (s *site) plantAll(ctx context.Context, files string) error {
	missed := 0
	for _, b := range bugs {
		if !s.match.MatchString(b.name) {
			continue
		}
		fmt.Printf("== planted: %s\n", b.name)
		r := s.plant(ctx, b, files)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case r.err == nil:
			fmt.Println("NOT FOUND")
			missed++
		case r.failed != b.step:
			return fmt.Errorf("%s: found elsewhere: %w", b.name, r.err)
		default:
			said, _, _ := strings.Cut(r.err.Error(), "\n")
			fmt.Println("found:", said)
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d planted bugs were not found", missed)
	}
	return nil
}

// plant carries out the step for a bug, and those that it stands on.
func (s *site) plant(ctx context.Context, b bug, files string) result {
	dir, err := os.MkdirTemp(s.dir, "planted-")
	if err != nil {
		return result{err: err}
	}
	defer os.RemoveAll(dir)
	script := b.script + "\n"
	if b.edit.file != "" {
		if err := b.edit.build(ctx, dir, s.pkg); err != nil {
			return result{err: err}
		}
		script = "cp " + filepath.Join(dir, "tandem") + " usr/lib/tandem/tandem"
	}
	mine := filepath.Join(dir, "files")
	build := builder{ctx: ctx, dir: dir}
	build.run("", nil, "cp", "-a", files, mine)
	build.repack(s.pkg, filepath.Join(mine, "tandem.deb"), "set -e\n"+script)
	build.repack(s.pkg, filepath.Join(mine, "newer.deb"), "set -e\n"+script+"\n"+newer)
	if build.err != nil {
		return result{err: build.err}
	}
	for _, one := range series {
		for _, step := range one.all {
			if step.name == b.step {
				one.all = append(one.standsOn(), step)
				return s.device(ctx, one, mine, tellsSoon)
			}
		}
	}
	return result{err: fmt.Errorf("%s: there is no step %q", b.name, b.step)}
}

// standsOn are the steps that others stand on.
func (s steps) standsOn() (all []step) {
	for _, one := range s.all {
		if one.always {
			all = append(all, one)
		}
	}
	return all
}

// build builds tandem with an edit, as dir/tandem, of the version that the package has.
func (e edit) build(ctx context.Context, dir, pkg string) error {
	text, err := os.ReadFile(e.file)
	if err != nil {
		return err
	}
	edited, err := e.apply(string(text))
	if err != nil {
		return err
	}
	source, err := filepath.Abs(e.file)
	if err != nil {
		return err
	}
	copied := filepath.Join(dir, "edited.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: copied}})
	if err != nil {
		return err
	}
	b := builder{ctx: ctx}
	b.run(dir, nil, "dpkg-deb", "-x", pkg, "unpacked")
	if b.err != nil {
		return b.err
	}
	program, err := os.ReadFile(filepath.Join(dir, "unpacked/usr/lib/tandem/tandem"))
	if err != nil {
		return err
	}
	b.write(copied, edited, 0o644)
	b.write(filepath.Join(dir, "overlay.json"), string(overlay), 0o644)
	b.run("", []string{"CGO_ENABLED=0", "GOARCH=amd64"}, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"),
		"-ldflags", "-s -w -X main.version="+release.FindVersion(program), "-o", filepath.Join(dir, "tandem"), "./cmd/tandem")
	return b.err
}

func (e edit) apply(text string) (string, error) {
	if n := strings.Count(text, e.old); n != 1 {
		return "", fmt.Errorf("%s: the edit fits in %d places", e.file, n)
	}
	return strings.Replace(text, e.old, e.new, 1), nil
}
