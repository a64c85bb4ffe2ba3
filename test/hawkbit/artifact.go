package hawkbit

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// listArtifacts is what a device is told of a module's artifacts. A space in a
// name gives a link that leads nowhere.
func (c *call) listArtifacts(m *module) []object {
	all := []object{}
	for _, a := range m.artifacts {
		link := fmt.Sprintf("%s/softwaremodules/%d/artifacts/%s", c.prefix, m.id, url.QueryEscape(a.name))
		kind := "http"
		if strings.HasPrefix(link, "https:") {
			kind = "https"
		}
		rels := object{"download-http": href("%s", link), "md5sum-http": href("%s.MD5SUM", link)}
		if kind == "https" {
			rels = object{"download": href("%s", link), "md5sum": href("%s.MD5SUM", link)}
		}
		all = append(all, object{"filename": a.name, "hashes": a.hashes(), "size": len(a.content), "_links": rels})
	}
	return all
}

// module finds the module that a request is about, and the action that brings it.
func (c *call) module(admits func(*action) bool) (*module, *action, error) {
	id, err := strconv.ParseInt(c.r.PathValue("module"), 10, 64)
	if err != nil {
		return nil, nil, errUnreadable
	}
	m := c.modules[id]
	if m == nil {
		return nil, nil, notFound("SoftwareModule", id)
	}
	for _, a := range c.target.actions {
		if a.has(id) && admits(a) {
			return m, a, nil
		}
	}
	return nil, nil, &failure{
		status: http.StatusNotFound, code: "repo.entityNotFound", class: repoException + "SoftwareModuleNotAssignedToTargetException",
		message: fmt.Sprintf("No assignment found for SoftwareModule with id {%d} to Target with id {%s}.", id, c.target.id),
	}
}

func (a *action) loads() bool { return a.active && a.status != stCanceling && a.status != stScheduled }

func (c *call) artifacts() error {
	m, _, err := c.module(func(a *action) bool { return a.loads() || a.status == stFinished })
	if err != nil {
		return err
	}
	answer(c.w, http.StatusOK, c.listArtifacts(m))
	return nil
}

// download sends an artifact. Each one that is asked for as a whole is noted in
// the history of the action, which is bounded.
func (c *call) download() error {
	m, action, err := c.module((*action).loads)
	if err != nil {
		return err
	}
	name := c.r.PathValue("name")
	name, sum := strings.CutSuffix(name, ".MD5SUM")
	for _, a := range m.artifacts {
		if a.name != name {
			continue
		}
		note := func() {
			c.log(action, stDownload, serverSays+"Target downloads "+c.r.URL.EscapedPath())
		}
		if sum {
			if strings.Contains(c.r.Header.Get("Accept"), "json") {
				return errNoEntity
			}
			if !action.full() {
				note()
			}
			c.w.Header().Set("Content-Disposition", "attachment;filename="+name+".MD5SUM")
			c.w.Header().Set("Content-Type", "text/plain")
			fmt.Fprintf(c.w, "%s  %s", a.md5, a.name)
			return nil
		}
		if match := c.r.Header.Get("If-Match"); match != "" && match != a.sha1 && match != "*" {
			return &failure{status: http.StatusPreconditionFailed}
		}
		if c.r.Header.Get("Range") == "" {
			if action.full() {
				return action.quota()
			}
			note()
		}
		c.send(a)
		return nil
	}
	return errNoEntity
}

// multipartBoundary is what hawkBit puts between several ranges.
const multipartBoundary = "THIS_STRING_SEPARATES_MULTIPART"

func (c *call) send(a *artifact) {
	h := c.w.Header()
	h.Set("ETag", `"`+a.sha1+`"`)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Disposition", "attachment;filename="+a.name)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Last-Modified", a.uploaded.UTC().Format(http.TimeFormat))
	asked := c.r.Header.Get("Range")
	if only := c.r.Header.Get("If-Range"); only != "" && only != `"`+a.sha1+`"` {
		asked = ""
	}
	size := int64(len(a.content))
	if asked == "" {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = c.w.Write(a.content)
		return
	}
	ranges, ok := readRanges(asked, size)
	if !ok {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		c.w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if len(ranges) == 1 {
		from, to := ranges[0][0], ranges[0][1]
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, size))
		h.Set("Content-Length", strconv.FormatInt(to-from+1, 10))
		c.w.WriteHeader(http.StatusPartialContent)
		_, _ = c.w.Write(a.content[from : to+1])
		return
	}
	var body bytes.Buffer
	for i, r := range ranges {
		if i > 0 {
			body.WriteString("\r\n")
		}
		fmt.Fprintf(&body, "--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %d-%d/%d\r\n\r\n", multipartBoundary, r[0], r[1], size)
		body.Write(a.content[r[0] : r[1]+1])
	}
	fmt.Fprintf(&body, "\r\n--%s--", multipartBoundary)
	h.Set("Content-Type", "multipart/byteranges; boundary="+multipartBoundary)
	c.w.WriteHeader(http.StatusPartialContent)
	_, _ = c.w.Write(body.Bytes())
}

// readRanges reads a Range header; ranges that overlap are refused.
func readRanges(text string, size int64) ([][2]int64, bool) {
	list, ok := strings.CutPrefix(text, "bytes=")
	if !ok {
		return nil, false
	}
	var all [][2]int64
	end := int64(-1)
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			return nil, false
		}
		from, errFrom := strconv.ParseInt(first, 10, 64)
		to, errTo := strconv.ParseInt(last, 10, 64)
		switch {
		case first == "" && errTo == nil:
			from, to = max(0, size-to), size-1
		case errFrom != nil:
			return nil, false
		case last == "" || errTo == nil && to >= size:
			to = size - 1
		case errTo != nil:
			return nil, false
		}
		if from > to || from >= size || from <= end {
			return nil, false
		}
		end = to
		all = append(all, [2]int64{from, to})
	}
	return all, true
}
