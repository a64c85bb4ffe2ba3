// Command app is the application of the whole machine: it answers over HTTP with
// its version and whom its configuration greets.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Set by the linker: what release this is, and what is wrong with it.
var version, defect string

const address = ":80"

func main() {
	var err error
	if len(os.Args) == 2 && os.Args[1] == "check" {
		err = check()
	} else {
		err = serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func serve() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "../etc/app.conf"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	name := strings.TrimSpace(strings.TrimPrefix(string(config), "name="))
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(c, strings.TrimSpace(version+" "+name+" "+defect))
	}
}

func answer(c net.Conn, text string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	lines := bufio.NewScanner(c)
	for lines.Scan() && lines.Text() != "" {
	}
	fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s\n", len(text)+1, text)
}

// check is the health check: the program of this version runs, and nothing is
// wrong with it.
func check() error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	last := ""
	for lines := bufio.NewScanner(c); lines.Scan(); {
		last = lines.Text()
	}
	if words := strings.Fields(last); len(words) != 2 || words[0] != version {
		return fmt.Errorf("it answers %q", last)
	}
	return nil
}

// dial waits for a program that was started just now.
func dial() (c net.Conn, err error) {
	for range 300 {
		if c, err = net.Dial("tcp", "127.0.0.1"+address); err == nil {
			return c, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}
