package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"unicode"
)

// The limits on what Access reads, in bytes.
const (
	maxSecret = 16 << 10
	maxPEM    = 1 << 20
)

// Secret is a text that is never shown: it prints as stars wherever it goes.
type Secret string

const hidden = "***"

// String implements fmt.Stringer.
func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Access is what the files hold that [source] names. What is not asked for is
// nil or "".
type Access struct {
	CAs         *x509.CertPool   // nil: the system's
	Certificate *tls.Certificate `json:"-"`
	Token       Secret
	User        string
	Password    Secret
	// Warnings are for the log: nothing in them is secret.
	Warnings []string

	section string // whose files they are
}

// Access reads the files that show the server who asks, and the device who
// answers. It is called when the server is, so that a change of a file is seen
// and a missing one keeps no other command from its work. The error wraps
// ErrInvalid.
func (s Source) Access() (*Access, error) { return s.access("source") }

// Access is Source.Access for the server that is reported to.
func (r Report) Access() (*Access, error) {
	return Source{CA: r.CA, TokenFile: r.TokenFile}.access("report")
}

// Secrets returns what must be shown to nobody but the servers that [source] and
// [report] name: what their files hold, as far as these can be read now, and what
// stands in the URLs.
func (c *Config) Secrets() []string {
	var all []string
	add := func(address string, a *Access, err error) {
		if u, err := url.Parse(address); err == nil && u.User != nil {
			password, _ := u.User.Password()
			all = append(all, password, u.User.String())
		}
		if err == nil {
			all = append(all, string(a.Token), string(a.Password))
		}
	}
	if c.Source != nil {
		a, err := c.Source.Access()
		add(c.Source.URL, a, err)
	}
	if c.Report != nil {
		a, err := c.Report.Access()
		add(c.Report.URL, a, err)
	}
	return all
}

func (s Source) access(section string) (*Access, error) {
	a := &Access{User: s.User, section: section}
	var err error
	if s.CA != "" {
		pem, err := a.read("ca", s.CA, maxPEM, false)
		if err != nil {
			return nil, err
		}
		a.CAs = x509.NewCertPool()
		if !a.CAs.AppendCertsFromPEM(pem) {
			return nil, a.badFile("ca", s.CA, "holds no certificate: expected PEM")
		}
	}
	if s.ClientCert != "" {
		cert, err := a.read("client_cert", s.ClientCert, maxPEM, false)
		if err != nil {
			return nil, err
		}
		key, err := a.read("client_key", s.ClientKey, maxPEM, true)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, a.badFile("client_cert", s.ClientCert, err.Error()+": expected a certificate that client_key belongs to")
		}
		a.Certificate = &pair
	}
	if s.TokenFile != "" {
		if a.Token, err = a.secret("token_file", s.TokenFile); err != nil {
			return nil, err
		}
	}
	for _, own := range []struct{ key, file string }{
		{"target_token_file", s.DDI.TargetTokenFile}, {"gateway_token_file", s.DDI.GatewayTokenFile},
	} {
		if own.file == "" {
			continue
		}
		if a.Token, err = a.secret(own.key, own.file); err != nil {
			return nil, err
		}
	}
	if s.PasswordFile != "" {
		if a.Password, err = a.secret("password_file", s.PasswordFile); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// secret reads a file that holds one line.
func (a *Access) secret(key, file string) (Secret, error) {
	data, err := a.read(key, file, maxSecret, true)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(data))
	switch {
	case text == "":
		return "", a.badFile(key, file, "is empty: expected one line")
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", a.badFile(key, file, "holds more than one line, or a control character: expected one line")
	}
	return Secret(text), nil
}

// read reads a file, and warns of a secret one that others may read.
func (a *Access) read(key, file string, limit int64, secret bool) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is not a file")
	}
	var data []byte
	if err == nil {
		data, err = readFile(file, limit)
	}
	if err != nil {
		var bad *fs.PathError
		if errors.As(err, &bad) {
			err = bad.Err // the path is named already
		}
		return nil, a.badFile(key, file, err.Error())
	}
	if int64(len(data)) > limit {
		return nil, a.badFile(key, file, fmt.Sprintf("is longer than %d bytes", limit))
	}
	if mode := info.Mode().Perm(); secret && mode&0o004 != 0 {
		a.Warnings = append(a.Warnings, fmt.Sprintf("%s.%s: %s may be read by every user of the device (mode %04o): expected 0600", a.section, key, file, mode))
	}
	return data, nil
}

func (a *Access) badFile(key, file, message string) error {
	return &Error{File: file, Key: a.section + "." + key, Message: message}
}
