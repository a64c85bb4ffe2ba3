// Command sbom tells what released programs are made of. It reads the modules
// that the Go linker recorded in them, and writes a bill of materials as
// CycloneDX JSON and the licences of all modules in one text. The same programs
// give the same bytes.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var r release
	var built int64
	var bill, notices string
	flag.StringVar(&r.Version, "version", "", "version of the release")
	flag.Int64Var(&built, "built", 0, "time of the release, in seconds since 1970")
	flag.StringVar(&bill, "bill", "", "write the bill of materials to this `FILE`")
	flag.StringVar(&notices, "licences", "", "write the licences to this `FILE`")
	flag.Parse()
	r.Built = time.Unix(built, 0).UTC()
	if err := run(r, bill, notices, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(r release, bill, notices string, files []string) error {
	if bill == "" || notices == "" || len(files) == 0 {
		return errors.New("usage: sbom -bill FILE -licences FILE [-version V] [-built SECONDS] PROGRAMS")
	}
	for _, f := range files {
		p, err := readProgram(f)
		if err != nil {
			return err
		}
		r.Programs = append(r.Programs, p)
	}
	dirs, err := moduleDirs()
	if err != nil {
		return err
	}
	modules, err := r.modules(dirs)
	if err != nil {
		return err
	}
	doc, err := json.MarshalIndent(r.bill(modules), "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(bill, append(doc, '\n'), 0o644),
		os.WriteFile(notices, licenceText(modules), 0o644))
}

// release is what is described: programs of one version.
type release struct {
	Version  string
	Built    time.Time
	Programs []program
}

// program is a file that the Go linker made.
type program struct {
	Name   string // of the file
	SHA256 string
	Info   *buildinfo.BuildInfo
}

// ref names the program in the bill, where its own name may be that of the whole.
func (p *program) ref() string { return "program/" + p.Name }

func readProgram(file string) (program, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return program{}, err
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return program{}, fmt.Errorf("%s: %w", file, err)
	}
	sum := sha256.Sum256(data)
	return program{filepath.Base(file), hex.EncodeToString(sum[:]), info}, nil
}

// module is a module that programs are made of; the standard library is one.
type module struct {
	Path, Version string
	Replacement   string // directory of ours that stands in for it; "" for none
	Licence       string // SPDX expression
	Text          []byte // of the licence
}

// ref names the module in the bill.
func (m *module) ref() string {
	return "pkg:golang/" + strings.ToLower(m.Path) + "@" + m.Version
}

const std = "std"

// ours is the module that the programs are packages of, with its licence.
const (
	ours       = "tandem"
	ourLicence = "Apache-2.0"
)

// used lists what a program is made of, beside our own module.
func (p *program) used() []module {
	list := []module{{Path: std, Version: strings.TrimPrefix(p.Info.GoVersion, "go")}}
	for _, d := range p.Info.Deps {
		m := module{Path: d.Path, Version: d.Version}
		if d.Replace != nil {
			m.Replacement = d.Replace.Path
		}
		list = append(list, m)
	}
	return list
}

// modules lists the modules of all programs, sorted, with their licences; dirs
// says where their sources are.
func (r *release) modules(dirs map[string]string) ([]module, error) {
	seen := make(map[string]module)
	for i := range r.Programs {
		for _, m := range r.Programs[i].used() {
			if _, ok := seen[m.ref()]; ok {
				continue
			}
			var err error
			if m.Replacement != "" {
				m.Licence = ourLicence // what stands in for it is our own
			} else if m.Licence, m.Text, err = licence(dirs[m.Path]); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Path, err)
			}
			seen[m.ref()] = m
		}
	}
	list := make([]module, 0, len(seen))
	for _, m := range seen {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.ref(), b.ref()) })
	return list, nil
}

// moduleDirs asks the go command where the sources of the programs' modules are.
func moduleDirs() (map[string]string, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}\t{{.Dir}}{{end}}", ours+"/cmd/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	dirs := map[string]string{std: strings.TrimSpace(string(root))}
	for l := range strings.Lines(string(out)) {
		if path, dir, ok := strings.Cut(strings.TrimSpace(l), "\t"); ok {
			dirs[path] = dir
		}
	}
	return dirs, nil
}

// licence finds the licence of the source in dir, with the notices that belong
// to it.
func licence(dir string) (id string, text []byte, err error) {
	if dir == "" {
		return "", nil, errors.New("its source was not found")
	}
	read := func(patterns ...string) error {
		for _, p := range patterns {
			names, err := filepath.Glob(filepath.Join(dir, p))
			if err != nil {
				return err
			}
			for _, n := range names {
				data, err := os.ReadFile(n)
				if err != nil {
					return err
				}
				text = append(text, data...)
			}
		}
		return nil
	}
	if err := read("LICEN[CS]E*", "COPYING*"); err != nil {
		return "", nil, err
	}
	if id = classify(string(text)); id == "" {
		return "", nil, fmt.Errorf("%s: no licence there that is known here: classify has to know it", dir)
	}
	return id, text, read("NOTICE*")
}

// phrases tell licences apart, by their SPDX identifiers.
var phrases = []struct{ id, phrase string }{
	{"Apache-2.0", "Apache License, Version 2.0"},
	{"Apache-2.0", "Apache License Version 2.0"},
	{"BSD-3-Clause", "may be used to endorse or promote products"},
	{"BSD-3-Clause", "may not be used to endorse or promote products"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"MPL-2.0", "Mozilla Public License, version 2.0"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
}

// classify returns the SPDX expression of a text that holds licences, or "".
func classify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	var ids []string
	for _, p := range phrases {
		if strings.Contains(text, p.phrase) && !slices.Contains(ids, p.id) {
			ids = append(ids, p.id)
		}
	}
	if strings.Contains(text, "Redistribution and use in source and binary forms") && !slices.Contains(ids, "BSD-3-Clause") {
		ids = append(ids, "BSD-2-Clause")
	}
	slices.Sort(ids)
	return strings.Join(ids, " AND ")
}

// licenceText is what the licences ask to be shipped with the programs.
func licenceText(modules []module) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "Tandem is licensed under the Apache License 2.0. Its programs contain the modules")
	fmt.Fprintln(&b, "below, each under its own licence.")
	for i, m := range modules {
		if m.Replacement != "" {
			continue
		}
		if slices.ContainsFunc(modules[:i], func(o module) bool { return bytes.Equal(o.Text, m.Text) }) {
			continue // it was named with the first of its text
		}
		fmt.Fprintf(&b, "\n%s\n\n", strings.Repeat("=", 79))
		for _, o := range modules[i:] {
			if bytes.Equal(o.Text, m.Text) {
				fmt.Fprintf(&b, "%s %s (%s)\n", o.Path, o.Version, o.Licence)
			}
		}
		fmt.Fprintln(&b)
		b.Write(bytes.TrimSpace(m.Text))
		fmt.Fprintln(&b)
	}
	return b.Bytes()
}

// The bill of materials: the part of CycloneDX 1.6 that is used here.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string          `json:"type"`
		Ref        string          `json:"bom-ref"`
		Name       string          `json:"name"`
		Version    string          `json:"version,omitempty"`
		Hashes     []hash          `json:"hashes,omitempty"`
		Licences   []licenceChoice `json:"licenses,omitempty"`
		URL        string          `json:"purl,omitempty"`
		Properties []property      `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licenceChoice struct {
		Expression string `json:"expression"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

func (r *release) bill(modules []module) *bom {
	whole := component{Type: "application", Ref: ours, Name: ours, Version: r.Version, Licences: licences(ourLicence)}
	b := &bom{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: metadata{r.Built.Format(time.RFC3339), whole},
	}
	all := dependency{Ref: whole.Ref}
	for i := range r.Programs {
		p := &r.Programs[i]
		c := component{
			Type: "application", Ref: p.ref(), Name: p.Name, Version: r.Version,
			Hashes: []hash{{"SHA-256", p.SHA256}}, Licences: licences(ourLicence),
		}
		for _, s := range p.Info.Settings {
			if strings.HasPrefix(s.Key, "GO") || s.Key == "CGO_ENABLED" {
				c.Properties = append(c.Properties, property{"go:build:" + s.Key, s.Value})
			}
		}
		b.Components = append(b.Components, c)
		all.On = append(all.On, p.ref())
		made := dependency{Ref: p.ref()}
		for _, m := range p.used() {
			made.On = append(made.On, m.ref())
		}
		slices.Sort(made.On)
		b.Dependencies = append(b.Dependencies, made)
	}
	for _, m := range modules {
		c := component{Type: "library", Ref: m.ref(), Name: m.Path, Version: m.Version, Licences: licences(m.Licence), URL: m.ref()}
		if m.Replacement != "" { // what is inside is not what the address names
			c.URL, c.Properties = "", []property{{"go:replaced-by", m.Replacement}}
		}
		b.Components = append(b.Components, c)
		b.Dependencies = append(b.Dependencies, dependency{Ref: m.ref(), On: []string{}})
	}
	b.Dependencies = append([]dependency{all}, b.Dependencies...)
	b.Serial = serial(b)
	return b
}

func licences(id string) []licenceChoice { return []licenceChoice{{id}} }

// serial makes a UUID (RFC 9562, version 8) of the bill itself, so that the
// same bill has the same.
func serial(b *bom) string {
	h := sha256.New()
	_ = json.NewEncoder(h).Encode(b) // of plain values into a hash
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
