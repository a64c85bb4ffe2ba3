package repository

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"

	"tandem/internal/digest"
)

const (
	// What never changes may be kept for ever, what changes must be asked for.
	cacheForever = "public, max-age=31536000, immutable"
	cacheAsk     = "no-cache"
)

// versioned is metadata whose name holds its version, hashed a target's name.
var (
	versioned = regexp.MustCompile(`^([1-9][0-9]*)\.(root|targets|snapshot)\.json$`)
	hashed    = regexp.MustCompile(`^([0-9a-f]{64})\.[^./][^/]*$`)
)

// Handler serves the files of a repository over HTTP, with ranges, entity tags
// and caching rules. It serves what is in metadata/ and targets/ and nothing
// else: no listings, no files that are still being written.
type Handler struct {
	root *os.Root
}

// NewHandler returns a handler for the repository in root, which stays the
// caller's to close once no request runs any more.
func NewHandler(root *os.Root) *Handler { return &Handler{root: root} }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served", http.StatusMethodNotAllowed)
		return
	}
	name, kind := classify(req.URL.Path)
	if kind == none {
		notFound(w)
		return
	}
	// Looking first keeps a FIFO from blocking the request for ever.
	if info, err := h.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		notFound(w)
		return
	}
	f, err := h.root.Open(name)
	if err != nil {
		notFound(w)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		notFound(w)
		return
	}
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	if kind == target {
		header.Set("Content-Type", "application/octet-stream")
		header.Set("Cache-Control", cacheForever)
		header.Set("ETag", `"`+hashed.FindStringSubmatch(path.Base(name))[1]+`"`)
		http.ServeContent(w, req, "", info.ModTime(), f)
		return
	}
	content, err := io.ReadAll(io.LimitReader(f, maxMetadata))
	if err != nil {
		http.Error(w, "the file cannot be read", http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", cacheAsk)
	if kind == immutable {
		header.Set("Cache-Control", cacheForever)
	}
	header.Set("ETag", `"`+digest.Of(content).String()+`"`)
	http.ServeContent(w, req, "", info.ModTime(), bytes.NewReader(content))
}

type fileKind int

const (
	none      fileKind = iota
	mutable            // timestamp.json
	immutable          // metadata with a version in its name
	target
)

// classify returns the file that a URL's path names, relative to the repository.
func classify(urlPath string) (string, fileKind) {
	name := strings.TrimPrefix(urlPath, "/")
	dir, base := path.Split(name)
	switch {
	case name == timestamp:
		return name, mutable
	case dir == metadataDir+"/" && versioned.MatchString(base):
		return name, immutable
	case dir == targetsDir+"/" && hashed.MatchString(base):
		return name, target
	}
	return "", none
}

// notFound must not be remembered: a device asks for the next root this way.
func notFound(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", cacheAsk)
	http.Error(w, "there is no such file", http.StatusNotFound)
}
