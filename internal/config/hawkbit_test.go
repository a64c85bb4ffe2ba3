package config

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHawkBit(t *testing.T) {
	file := write(t, `[device]
id = "gate-17"
[source]
type = "hawkbit"
url = "http://127.0.0.1:8080/"
target_token_file = "token"
distribution_set = "hello"
auto_confirm = true
metadata = "file:releases"
[source.attributes]
site = "north"
"floor no" = "2"
`)
	c, err := loader(t, "x").Load(file)
	if err != nil {
		t.Fatal(err)
	}
	d := c.Source.DDI
	if d.Name(c) != "gate-17" || d.Tenant != "DEFAULT" || !d.AutoConfirm || d.Set != "hello" || !strings.HasSuffix(d.Metadata, "/releases") {
		t.Errorf("%+v", d)
	}
	if diff := cmp.Diff(map[string]string{"site": "north", "floor no": "2"}, d.Attributes); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Source.Access(); err == nil || !strings.Contains(err.Error(), "target_token_file") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(d.TargetTokenFile, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := c.Source.Access(); err != nil || string(a.Token) != "s3cret" {
		t.Errorf("%v, %v", a, err)
	}
}

func TestHawkBitMistakes(t *testing.T) {
	const is = "[source]\ntype = \"hawkbit\"\nurl = \"https://ota.example.com\"\n"
	for _, c := range []struct{ text, want string }{
		{is, `:1: source: shows the server nothing: expected target_token_file, gateway_token_file or client_cert`},
		{is + "token_file = \"t\"\n", `:4: source.token_file: is for a repository: expected target_token_file or gateway_token_file`},
		{is + "target_token_file = \"t\"\ngateway_token_file = \"g\"\n", `:5: source.gateway_token_file: there is a target_token_file, too: expected one way to show who asks`},
		{is + "controller = \"a/b\"\n", `:4: source.controller: "a/b" holds one of / ; %: expected a name that hawkBit takes`},
		{is + "[source.attributes]\nn = 5\n", `:4: source.attributes: n: found the number 5: expected a text in quotes`},
		{is + "attributes = \"x\"\n", `:4: source.attributes: found the text "x": expected a section [source.attributes] of texts`},
		{"[source]\ntype = \"hawkbit\"\nurl = \"file:repo\"\ngateway_token_file = \"g\"\n", `:4: source.gateway_token_file: source.url is a directory: expected one that is reached over https`},
		{"[source]\ntype = \"hawkbit\"\nurl = \"http://ota.example.com\"\ntarget_token_file = \"t\"\n", `:4: source.target_token_file: source.url is not encrypted: expected one that begins with https`},
		{"[source]\nurl = \"https://ota.example.com\"\ntenant = \"T\"\n", `:3: source.tenant: is for a hawkBit server: expected type = "hawkbit"`},
	} {
		_, err := loader(t, "x").Load(write(t, c.text))
		if err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%q:\n%v\nexpected %s", c.text, err, c.want)
		}
	}
}
