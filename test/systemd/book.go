package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// pages are those of the book that tell what to put into units.
var pages = []string{"docs/debian.md", "docs/quick-start.md"}

var (
	iniBlock = regexp.MustCompile("(?s)```ini\n(.*?)```")
	edited   = regexp.MustCompile(`(?m)^# systemctl edit (?:--runtime )?(\S+)\n`)
	whole    = regexp.MustCompile(`^# /etc/systemd/system/(\S+)\n`)
)

// units writes the units and drop-ins of the book below dir: a folder for each
// example, to be laid over /run/systemd/system.
func (b *builder) units(dir string) {
	n := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil && b.err == nil {
			b.err = err
		}
		for _, block := range iniBlock.FindAllStringSubmatch(string(text), -1) {
			if m := whole.FindStringSubmatch(block[1]); m != nil {
				b.write(filepath.Join(dir, fmt.Sprint(n), m[1]), block[1], 0o644)
				n++
				continue
			}
			heads := edited.FindAllStringSubmatchIndex(block[1], -1)
			if len(heads) == 0 && b.err == nil {
				b.err = fmt.Errorf("%s: no unit is named for:\n%s", page, block[1])
			}
			for i, h := range heads {
				end := len(block[1])
				if i+1 < len(heads) {
					end = heads[i+1][0]
				}
				unit := block[1][h[2]:h[3]]
				b.write(filepath.Join(dir, fmt.Sprint(n), unit+".d", "book.conf"), block[1][h[1]:end], 0o644)
				n++
			}
		}
	}
	if n == 0 && b.err == nil {
		b.err = fmt.Errorf("no units in %s", strings.Join(pages, ", "))
	}
}

// book: systemd understands each unit and drop-in of the book, and the agent
// runs with it, also where what it names is missing.
func (l *lab) book() error {
	out, err := l.sh("ls /lab/units")
	if err != nil {
		return err
	}
	for n := range strings.Lines(out) {
		n = strings.TrimSpace(n)
		if err := checks(
			l.holds("mkdir -p /run/systemd/system", "cp -r /lab/units/"+n+"/. /run/systemd/system", "systemctl daemon-reload"),
			l.saying("systemd-analyze verify --man=no tandem-boot.service tandem-agent.service hello.service"),
			l.holds("systemctl restart tandem-agent", "cd /lab/units/"+n+" && find . -type f | while read -r f; do rm /run/systemd/system/$f; done"),
		); err != nil {
			return fmt.Errorf("example %s of the book: %w", n, err)
		}
	}
	return l.all("systemctl daemon-reload", "systemctl restart tandem-agent", noneFailed)
}
