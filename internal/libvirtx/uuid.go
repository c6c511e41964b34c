package libvirtx

import (
	"crypto/rand"
	"crypto/sha1"
	"fmt"
)

// NewUUID returns a random UUID (RFC 9562, version 4).
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return format(b, 4)
}

// TokenUUID returns the UUID for a create or clone token (RFC 9562, version
// 5). So every process that repeats the call means the same machine, and
// libvirt itself refuses to make it twice.
func TokenUUID(token string) string {
	h := sha1.Sum([]byte(Namespace + "\x00token\x00" + token))
	var b [16]byte
	copy(b[:], h[:])
	return format(b, 5)
}

func format(b [16]byte, version byte) string {
	b[6], b[8] = b[6]&0x0f|version<<4, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// NewMAC returns a random address that begins with three given bytes.
func NewMAC(prefix string) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return fmt.Sprintf("%s:%02x:%02x:%02x", prefix, b[0], b[1], b[2])
}

// Nonce returns eight random hex digits that distinguish files and tasks.
func Nonce() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return fmt.Sprintf("%x", b)
}
