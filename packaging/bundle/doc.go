// Package bundle writes and reads bundles: one file that carries one release
// of an application.
//
// A bundle is an uncompressed tar with these members, in this order:
//
//	tandem-bundle             "1\n", the format version
//	metadata/<N>.root.json    zero or more TUF roots, N going up by one
//	metadata/targets.json     TUF targets metadata: length and SHA-256 of the next two
//	manifest.json             what the release is and which files it has
//	payload.tar.zst           the files' contents, in the manifest's order
//
// The outer tar is canonical: header, padding and end have exactly one valid
// form, so that a changed byte anywhere is noticed. Everything after
// targets.json is covered by the hashes in it, and those by its signatures.
//
// A reader takes a bundle as a stream, holds no more of it than its metadata
// and manifest, and trusts nothing before it was verified.
package bundle
