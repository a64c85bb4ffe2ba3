package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/internal/testprograms"
)

// What the linker recorded in tandem is described, twice with the same bytes,
// and every reference leads somewhere.
func TestBill(t *testing.T) {
	bin := t.TempDir()
	if err := testprograms.Build(bin, testprograms.Small(), ours+"/cmd/tandem"); err != nil {
		t.Fatal(err)
	}
	tandem := filepath.Join(bin, "tandem")
	var docs, notices [2]string
	for i := range docs {
		dir := t.TempDir()
		bill, licences := filepath.Join(dir, "bill"), filepath.Join(dir, "licences")
		if err := run(release{Version: "1.2.3", Built: time.Unix(1e9, 0).UTC()}, bill, licences, []string{tandem}); err != nil {
			t.Fatal(err)
		}
		docs[i], notices[i] = read(t, bill), read(t, licences)
	}
	if docs[0] != docs[1] || notices[0] != notices[1] {
		t.Error("the same program was described in two ways")
	}
	var b bom
	if err := json.Unmarshal([]byte(docs[0]), &b); err != nil {
		t.Fatal(err)
	}
	p, err := readProgram(tandem)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{b.Metadata.Component.Ref: true}
	for _, c := range b.Components {
		known[c.Ref] = true
		if c.Name == p.Name && c.Hashes[0].Content != p.SHA256 {
			t.Errorf("%s: hash %s, want %s", c.Name, c.Hashes[0].Content, p.SHA256)
		}
		if len(c.Licences) != 1 || c.Licences[0].Expression == "" {
			t.Errorf("%s has no licence", c.Name)
		}
	}
	for _, d := range b.Dependencies {
		for _, r := range append(d.On, d.Ref) {
			if !known[r] {
				t.Errorf("%s is needed, but not described", r)
			}
		}
	}
	if len(b.Dependencies) != len(known) {
		t.Errorf("%d components, %d of them with what they need", len(known), len(b.Dependencies))
	}
	if len(p.Info.Deps) == 0 {
		t.Error("no module was found in the program")
	}
	for _, d := range p.Info.Deps {
		if m := (module{Path: d.Path, Version: d.Version}); !known[m.ref()] {
			t.Errorf("%s is in the program, but not in its bill", d.Path)
		}
	}
	if !strings.Contains(notices[0], "std "+strings.TrimPrefix(p.Info.GoVersion, "go")+" (BSD-3-Clause)") {
		t.Error("the standard library's licence is missing")
	}
	if b.Metadata.Timestamp != "2001-09-09T01:46:40Z" || b.Metadata.Component.Version != "1.2.3" {
		t.Errorf("metadata: %+v", b.Metadata)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestClassify(t *testing.T) {
	const bsd = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted.\n"
	const endorse = "Neither the name of X nor the names of its\ncontributors may be used to endorse or promote products.\n"
	const mit = "Permission is hereby granted, free of charge, to any person\n"
	for text, want := range map[string]string{
		"":                    "",
		"all rights reserved": "",
		mit:                   "MIT",
		bsd:                   "BSD-2-Clause",
		bsd + endorse:         "BSD-3-Clause",
		bsd + endorse + mit:   "BSD-3-Clause AND MIT",
		"Apache License\n   Version 2.0, January 2004": "Apache-2.0",
		"Mozilla Public License, version 2.0":          "MPL-2.0",
	} {
		if got := classify(text); got != want {
			t.Errorf("%.40q: %q, want %q", text, got, want)
		}
	}
}

// A program with a module whose source or licence cannot be found is not
// released in silence.
func TestNoLicence(t *testing.T) {
	if _, _, err := licence(""); err == nil {
		t.Error("no source: no error")
	}
	if _, _, err := licence(t.TempDir()); err == nil {
		t.Error("a source without a licence: no error")
	}
}
