package config

import (
	"fmt"
	"net/netip"

	"github.com/BurntSushi/toml"
)

// Page says where the technician's page is served.
type Page struct {
	Listen       netip.AddrPort
	Public       bool   // public: also at an address that everybody may reach
	PasswordFile string // password_file: holds the hashes of the passwords
	Certificate  string // certificate: PEM file that the page shows, and those above it; "": one that the device makes
	Key          string // key: PEM file of its private key
}

// Secure reports whether the page is served by TLS: always, but on the device itself
// without a certificate.
func (p Page) Secure() bool { return !p.Listen.Addr().IsLoopback() || p.Certificate != "" }

func (r *reader) pageKeys(p *Page) section {
	return section{
		"listen": address(&p.Listen), "public": boolean(&p.Public), "password_file": r.optionalPath(&p.PasswordFile),
		"certificate": r.optionalPath(&p.Certificate), "key": r.optionalPath(&p.Key),
	}
}

// address reads an address with a port; "" is none. Names are no addresses: what they
// stand for may change.
func address(dst *netip.AddrPort) setter {
	return func(value any) error {
		s, err := text(value)
		if err != nil {
			return err
		}
		*dst = netip.AddrPort{}
		if s == "" {
			return nil
		}
		a, err := netip.ParseAddrPort(s)
		if err != nil || a.Port() == 0 {
			return fmt.Errorf(`%q is no address with a port: expected one such as "192.168.1.1:8080"`, s)
		}
		*dst = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		return nil
	}
}

// checkPage finds what does not fit together in [page].
func (r *reader) checkPage() error {
	p := r.c.Page
	if p == nil {
		return nil
	}
	at := func(key, message string) error { return r.errorAt(toml.Key{"page", key}, message) }
	ip := p.Listen.Addr()
	switch {
	case p.PasswordFile == "":
		return at("password_file", `is missing: expected the file that "tandem page password" writes`)
	case (p.Certificate == "") != (p.Key == ""):
		key, other := "certificate", "key"
		if p.Certificate == "" {
			key, other = other, key
		}
		return at(key, "there is no "+other+": expected both or neither")
	case ip.IsMulticast():
		return at("listen", fmt.Sprintf("%s is no address of a device: expected one such as \"192.168.1.1:8080\"", ip))
	case !p.Public && ip.IsUnspecified():
		return at("listen", fmt.Sprintf("%s is every address that there is: expected one, or public = true", ip))
	case !p.Public && !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast():
		return at("listen", fmt.Sprintf("%s can be reached from everywhere: expected an address of a private network, or public = true", ip))
	}
	return nil
}
