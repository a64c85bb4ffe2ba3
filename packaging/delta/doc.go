// Package delta applies patches that make a new version of a file from an old
// one. A patch of a program whose addresses have moved takes a few hundredths
// of what a general one does; docs/formats.md, "Patches", specifies the format.
//
// The old file is read where it lies, the patch as a stream, once, and the new
// file is written in order. About 6.5 MiB of memory are needed, whatever
// the size of the files or the patch, and work that the size of the new file
// bounds. A patch that is not what the format allows is an error at the first
// place that shows it, and never worse. Whether what came out is what was
// meant only its hash says: whoever applies a patch compares the old file's hash before
// and the new one's after.
//
// Package encode makes patches. It is not for devices.
package delta
