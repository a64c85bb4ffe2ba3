package hawkbit

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// relations are how a server may name the link to an artifact, the best first.
var relations = []string{"download", "download-http", "https", "http"}

// errForeign says that a link leads where the device does not go.
var errForeign = errors.New("a link that is not followed")

// artifactURL makes of an artifact's links the address to fetch it from, as seen
// from the configured origin:
//
//   - a link to the origin's own host leads to the origin, whatever scheme and
//     port it names: behind a proxy the server does not know its own
//   - a link to another host is followed over https, or over http where the
//     origin itself is plain http; no token goes there
//   - all others are not followed
func artifactURL(origin string, l links) (string, error) {
	home, err := url.Parse(origin)
	if err != nil {
		return "", err
	}
	for _, rel := range relations {
		link := l[rel].Href
		if link == "" {
			continue
		}
		u, err := home.Parse(link)
		switch {
		case err != nil:
			return "", fmt.Errorf("%w: %.200q", errForeign, link)
		case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil:
			return "", fmt.Errorf("%w: %.200q: expected http or https to a host, without a password", errForeign, u.Redacted())
		case strings.EqualFold(u.Hostname(), home.Hostname()):
			u.Scheme, u.Host = home.Scheme, home.Host
		case u.Scheme != "https" && home.Scheme == "https":
			return "", fmt.Errorf("%w: %.200q: expected https to another host than the server's", errForeign, u.Redacted())
		}
		return u.String(), nil
	}
	return "", fmt.Errorf("%w: expected one of %s", errForeign, strings.Join(relations, ", "))
}

// spaced is the same address with spaces where the server wrote plus signs, which
// it does not understand itself; "" if there are none.
func spaced(address string) string {
	path, query, asked := strings.Cut(address, "?")
	if !strings.Contains(path, "+") {
		return ""
	}
	path = strings.ReplaceAll(path, "+", "%20")
	if asked {
		path += "?" + query
	}
	return path
}
