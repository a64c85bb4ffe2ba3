package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// compose is what Tandem's examples use of a compose file.
type compose struct {
	Name     string
	Services map[string]struct {
		Image       string
		Build       struct{ Context, Target string }
		Command     []string
		User        string
		Environment map[string]string
		Volumes     []string
		Ports       []string
		DependsOn   []string `yaml:"depends_on"`
		Restart     string

		Profiles        []string
		NetworkMode     string   `yaml:"network_mode"`
		ReadOnly        bool     `yaml:"read_only"`
		CapDrop         []string `yaml:"cap_drop"`
		SecurityOpt     []string `yaml:"security_opt"`
		StopGracePeriod string   `yaml:"stop_grace_period"`
		Tmpfs           []string
	}
	Volumes map[string]struct{}
}

func load(t *testing.T, name string, doc any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// The compose files of the examples are whole: no key is misspelt, and what they mount,
// wait for and build is there. No container is run here.
func TestComposeFiles(t *testing.T) {
	image := regexp.MustCompile(`^[a-z0-9./-]+:[a-z0-9.-]+$`)
	port := regexp.MustCompile(`^(\d+\.\d+\.\d+\.\d+:)?\d+:\d+$`)
	for _, dir := range []string{"../../../examples/fleet", "../../../examples/compose"} {
		var c compose
		load(t, filepath.Join(dir, "compose.yaml"), &c)
		if c.Name == "" || len(c.Services) == 0 {
			t.Errorf("%s: no name, or nothing to run", dir)
		}
		used := map[string]bool{}
		for name, s := range c.Services {
			if image.MatchString(s.Image) == (s.Build.Target != "") {
				t.Errorf("%s: %s: image %q, build %+v: expected one of them", dir, name, s.Image, s.Build)
			}
			if s.Build.Target != "" {
				if data, err := os.ReadFile(filepath.Join(dir, s.Build.Context, "Dockerfile")); err != nil || !strings.Contains(string(data), " AS "+s.Build.Target+"\n") {
					t.Errorf("%s: %s: the Dockerfile has no stage %s, %v", dir, name, s.Build.Target, err)
				}
			}
			for _, v := range s.Volumes {
				parts := strings.Split(v, ":")
				if len(parts) < 2 || !strings.HasPrefix(parts[1], "/") || len(parts) == 3 && parts[2] != "ro" || len(parts) > 3 {
					t.Errorf("%s: %s: volume %q", dir, name, v)
					continue
				}
				used[parts[0]] = true
				if _, ok := c.Volumes[parts[0]]; ok {
					continue
				}
				if _, err := os.Stat(filepath.Join(dir, parts[0])); err != nil || !strings.HasPrefix(parts[0], ".") {
					t.Errorf("%s: %s: volume %q: %v", dir, name, v, err)
				}
			}
			for _, p := range s.Ports {
				if !port.MatchString(p) {
					t.Errorf("%s: %s: port %q", dir, name, p)
				}
			}
			for _, d := range s.DependsOn {
				if _, ok := c.Services[d]; !ok {
					t.Errorf("%s: %s: waits for %q", dir, name, d)
				}
			}
		}
		for v := range c.Volumes {
			if !used[v] {
				t.Errorf("%s: nobody uses the volume %s", dir, v)
			}
		}
	}
}

// Grafana finds the dashboard and the data that it asks for where the compose file puts
// them. Grafana itself is not run here.
func TestGrafanaFindsAll(t *testing.T) {
	const dir = "../../../examples/fleet/"
	var c compose
	load(t, dir+"compose.yaml", &c)
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, URL string
			IsDefault            bool `yaml:"isDefault"`
		}
	}
	load(t, dir+"grafana/datasource.yaml", &sources)
	var boards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Type string
			Options    struct{ Path string }
		}
	}
	load(t, dir+"grafana/dashboards.yaml", &boards)
	if len(sources.Datasources) != 1 || len(boards.Providers) != 1 {
		t.Fatalf("%d sources, %d providers", len(sources.Datasources), len(boards.Providers))
	}
	if _, ok := c.Services[strings.TrimSuffix(strings.TrimPrefix(sources.Datasources[0].URL, "http://"), ":9090")]; !ok {
		t.Errorf("%q is no service", sources.Datasources[0].URL)
	}
	volumes := c.Services["grafana"].Volumes
	for _, want := range []string{
		"./grafana/datasource.yaml:/etc/grafana/provisioning/datasources/prometheus.yaml:ro",
		"./grafana/dashboards.yaml:/etc/grafana/provisioning/dashboards/tandem.yaml:ro",
		"./grafana/fleet.json:" + boards.Providers[0].Options.Path + "/fleet.json:ro",
	} {
		if !slices.Contains(volumes, want) {
			t.Errorf("no volume %q in %q", want, volumes)
		}
	}
	data, err := os.ReadFile(dir + "grafana/fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`"type": "prometheus",\s+"uid": "([^"]*)"`).FindAllSubmatch(data, -1)
	if len(asked) == 0 {
		t.Error("the dashboard asks nobody")
	}
	for _, m := range asked {
		if string(m[1]) != sources.Datasources[0].UID {
			t.Errorf("the dashboard asks %q, there is %q", m[1], sources.Datasources[0].UID)
		}
	}
}
