package page

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

const allPictures = 400 << 10 // bytes, of all that the book shows

// The pictures of the book can be taken, and are small. TANDEM_PICTURES says where they
// are kept.
func TestPictures(t *testing.T) {
	t.Parallel()
	d := newDevice(t, "")
	b := newTab(t, d.url, true)
	total := 0
	take := func(name string) {
		t.Helper()
		b.do("top", chromedp.Evaluate[chromedp.Void]("document.activeElement.blur()"))
		data := few(t, b.picture())
		total += len(data)
		if dir := os.Getenv("TANDEM_PICTURES"); dir != "" {
			check(t, os.MkdirAll(dir, 0o755))
			check(t, os.WriteFile(filepath.Join(dir, name+".png"), data, 0o644))
		}
	}
	b.logIn(fullPassword)
	d.write("system/apps/bin/hello", "#!/bin/sh\necho a change by hand\n")
	b.shows("#kept .aside", "bin/hello")
	d.write("undecided", "")
	b.order("update")
	b.shows("#pending", "1.1.0 waits to be confirmed")
	b.order("doctor")
	b.shows("#kept .findings", "fine")
	b.open("/")
	b.size(900, 1000, false)
	take("page")
	b.scheme("dark")
	b.size(360, 740, true)
	b.open("/")
	take("phone")
	b.do("doctor", chromedp.Evaluate[chromedp.Void](`document.getElementById("doctor").scrollIntoView()`))
	take("doctor")

	b.scheme("light")
	b.size(900, 640, false)
	b.begin()
	b.do("now", chromedp.Evaluate[chromedp.Void](`document.getElementById("now-title").scrollIntoView()`))
	take("upload")
	if total > allPictures {
		t.Errorf("the pictures have %d bytes, at most %d are allowed", total, allPictures)
	}
}

func (b *tab) picture() []byte {
	b.t.Helper()
	data, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	check(b.t, err)
	return data
}

// few makes a picture of 64 colours: those that are most frequent.
func few(t *testing.T, data []byte) []byte {
	t.Helper()
	src, err := png.Decode(bytes.NewReader(data))
	check(t, err)
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(src.At(x, y)).(color.RGBA) }
	box := src.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int {
		return cmp.Or(counts[b]-counts[a], int(a.R)-int(b.R), int(a.G)-int(b.G), int(a.B)-int(b.B))
	})
	var palette color.Palette
	for _, c := range colours[:min(64, len(colours))] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for c := range counts {
		nearest[c] = uint8(palette.Index(c))
	}
	dst := image.NewPaletted(box, palette)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			dst.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var out bytes.Buffer
	check(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, dst))
	return out.Bytes()
}
