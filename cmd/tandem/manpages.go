//go:build manpages

package main

import (
	"fmt"
	"os"

	"tandem/internal/manpage"
)

// With the tag manpages this package is another program: it writes the manual
// pages of the commands into the directory that it is given. What a device
// carries has nothing of it.
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manpages DIR")
		os.Exit(2)
	}
	book := manpage.Book{Section: 8, Version: releaseVersion(), Date: builtAt()}
	if err := book.Write(os.Args[1], explain(newRootCommand(&program{}))); err != nil {
		fmt.Fprintln(os.Stderr, "manpages:", err)
		os.Exit(1)
	}
}
