// Package bundle writes and reads bundles: one file that carries one release
// of an application.
//
// A bundle is an uncompressed tar with these members, in this order:
//
//	tandem-bundle             "2\n", the format version
//	metadata/<N>.root.json    zero or more TUF roots, N going up by one
//	metadata/targets.json     TUF targets metadata: length and SHA-256 of the next two
//	release.json.zst          what the release is; its SHA-256, unpacked, is the release
//	parts.json                how this bundle carries it: the frames of the payload
//	payload.tar.zst           the files, in the release's order
//
// What comes before the payload is the head. The outer tar is canonical: header,
// padding and end have exactly one valid form.
//
// The payload is a tar in independent zstd frames, each of which holds whole
// files, or a piece of one large file. Headers and padding of that tar, and so
// the length of each frame when it is decoded, follow from the release: they are
// compared, never parsed. Every byte that a reader gives is covered by the
// SHA-256 of its file; frames that nobody needs are neither decoded nor hashed,
// and on a source that can seek not even read.
//
// A reader takes a bundle as a stream, holds no more of it than its head and one
// frame, and trusts nothing before it was verified.
package bundle
