package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// DDI is what a source of the type hawkbit has of its own.
type DDI struct {
	Tenant     string
	Controller string // controller: the device's name there; "": device.id

	TargetTokenFile  string // target_token_file: holds the token of this device
	GatewayTokenFile string // gateway_token_file: holds the one that lets any device in

	Set         string            // distribution_set: the name of those that bring the application; "": see the module's metadata
	AutoConfirm bool              // auto_confirm: what a person should confirm is confirmed at once
	Metadata    string            // metadata: URL of a TUF repository that must list what is installed; "": none
	Attributes  map[string]string // told to the server, beside what the device tells of itself
}

// defaultTenant is what a server calls its only tenant.
const defaultTenant = "DEFAULT"

// Name is how the server knows the device of c.
func (d *DDI) Name(c *Config) string {
	if d.Controller != "" {
		return d.Controller
	}
	return c.Device.ID
}

// hawkBitKeys are the keys of [source] for a hawkBit server alone.
func (r *reader) hawkBitKeys(d *DDI) section {
	return section{
		"tenant":             name(&d.Tenant),
		"controller":         controller(&d.Controller),
		"target_token_file":  r.optionalPath(&d.TargetTokenFile),
		"gateway_token_file": r.optionalPath(&d.GatewayTokenFile),
		"distribution_set":   setName(&d.Set),
		"auto_confirm":       boolean(&d.AutoConfirm),
		"metadata":           r.optionalURL(&d.Metadata),
		"attributes":         attributes(&d.Attributes),
	}
}

// controller reads the name of a device as a server takes it.
func controller(dst *string) setter {
	return func(value any) error {
		s := ""
		if err := optionalName(&s)(value); err != nil {
			return err
		}
		if strings.ContainsAny(s, "/;%") {
			return fmt.Errorf("%q holds one of / ; %%: expected a name that hawkBit takes", s)
		}
		*dst = s
		return nil
	}
}

// setName reads the name of a distribution set, which may have spaces.
func setName(dst *string) setter {
	return func(value any) error {
		s, err := text(value)
		if err != nil {
			return err
		}
		if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r == ':' || unicode.IsControl(r) }) {
			return fmt.Errorf("%.20q: expected the name of a distribution set without its version, at most %d bytes", s, maxName)
		}
		*dst = s
		return nil
	}
}

func (r *reader) optionalURL(dst *string) setter {
	return func(value any) error {
		if value == "" {
			*dst = ""
			return nil
		}
		return r.url(dst, "http, https or file")(value)
	}
}

// maxOwnAttributes leaves room for what the device tells of itself.
const maxOwnAttributes = 50

func attributes(dst *map[string]string) setter {
	return func(value any) error {
		table, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("found %s: expected a section [source.attributes] of texts", typeName(value))
		}
		if len(table) > maxOwnAttributes {
			return fmt.Errorf("has %d attributes: expected at most %d", len(table), maxOwnAttributes)
		}
		all := map[string]string{}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			s, ok := table[key].(string)
			switch {
			case !ok:
				return fmt.Errorf("%s: found %s: expected a text in quotes", key, typeName(table[key]))
			case key == "" || utf8.RuneCountInString(key) > maxName || utf8.RuneCountInString(s) > maxName:
				return fmt.Errorf("%.20q = %.20q: expected a name and a value of at most %d characters", key, s, maxName)
			}
			all[key] = s
		}
		*dst = all
		return nil
	}
}

// checkHawkBit finds what does not fit together in [source] where a hawkBit server
// is the source, or where it is not and has keys all the same.
func (r *reader) checkHawkBit() error {
	s := r.c.Source
	d := &s.DDI
	at := func(key, message string) error { return r.errorAt(toml.Key{"source", key}, message) }
	if s.Type != HawkBit {
		for _, k := range []struct {
			key string
			is  bool
		}{
			{"tenant", d.Tenant != defaultTenant}, {"controller", d.Controller != ""}, {"target_token_file", d.TargetTokenFile != ""},
			{"gateway_token_file", d.GatewayTokenFile != ""}, {"distribution_set", d.Set != ""}, {"auto_confirm", d.AutoConfirm},
			{"metadata", d.Metadata != ""}, {"attributes", len(d.Attributes) > 0},
		} {
			if k.is {
				return at(k.key, `is for a hawkBit server: expected type = "hawkbit"`)
			}
		}
		return nil
	}
	switch {
	case strings.HasPrefix(s.URL, "file:"):
		return at("url", "is a directory: expected the http or https address of a hawkBit server")
	case s.TokenFile != "":
		return at("token_file", "is for a repository: expected target_token_file or gateway_token_file")
	case s.User != "":
		return at("user", "is for a repository: expected target_token_file or gateway_token_file")
	case d.TargetTokenFile != "" && d.GatewayTokenFile != "":
		return at("gateway_token_file", "there is a target_token_file, too: expected one way to show who asks")
	case d.TargetTokenFile == "" && d.GatewayTokenFile == "" && s.ClientCert == "":
		return r.errorAt(toml.Key{"source"}, "shows the server nothing: expected target_token_file, gateway_token_file or client_cert")
	}
	return nil
}
