package testprograms

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddress gives an address of ip where nobody listens, for a program that is told
// where to listen, also when it is started again: its port is below those that the kernel
// gives away by itself. No seed says which one: two runs with one seed would meet.
func FreeAddress(t testing.TB, ip string) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort(ip, fmt.Sprint(12000+rand.IntN(20000)))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}
