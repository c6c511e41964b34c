package krbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jcmturner/gokrb5/v8/crypto/etype"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Session seals and unseals the messages of a connection [D: RFC 4121 4.2].
type Session struct {
	key     types.EncryptionKey
	et      etype.EType
	in, out uint64 // numbers of the next messages
}

// Flags of a wrap token [D: RFC 4121 4.2.2], and key usages [D: RFC 4121 2].
const (
	fromAcceptor   = 1
	isSealed       = 2
	byAcceptorsKey = 4

	usageAcceptor, usageInitiator = 22, 24
)

// header is the first 16 bytes of a wrap token.
type header [16]byte

func newHeader(flags byte, ec, rrc uint16, seq uint64) (h header) {
	h[0], h[1], h[2], h[3] = 5, 4, flags, 0xff
	binary.BigEndian.PutUint16(h[4:], ec)
	binary.BigEndian.PutUint16(h[6:], rrc)
	binary.BigEndian.PutUint64(h[8:], seq)
	return h
}

// Seal encrypts a message: 4 bytes length of the signature, signature, message. The signature is the token's header and
// everything that encryption adds, 60 bytes with AES and SHA-1 [L: python3-winrm with MIT's gss_wrap_iov].
func (s *Session) Seal(msg []byte) ([]byte, error) {
	h := newHeader(fromAcceptor|isSealed|byAcceptorsKey, 0, 0, s.out)
	_, c, err := s.et.EncryptMessage(s.key.KeyValue, append(bytes.Clone(msg), h[:]...), usageAcceptor)
	if err != nil {
		return nil, err
	}
	tail := len(h) + s.et.GetHMACBitLength()/8
	h = newHeader(h[2], 0, uint16(tail), s.out)
	s.out++
	cut := len(c) - tail
	size := len(h) + len(c) - len(msg)
	return bytes.Join([][]byte{binary.LittleEndian.AppendUint32(nil, uint32(size)), h[:], c[cut:], c[:cut]}, nil), nil
}

// Open decrypts a message that a client has sealed, and checks its place.
func (s *Session) Open(b []byte) ([]byte, error) {
	var h header
	if len(b) < 4+len(h)+16 {
		return nil, errors.New("a sealed message is too short")
	}
	size := int(binary.LittleEndian.Uint32(b))
	tok := b[4:]
	if size < len(h) || size > len(tok) {
		return nil, errors.New("the signature of a sealed message has the wrong size")
	}
	copy(h[:], tok)
	c := tok[len(h):]
	ec, rrc := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
	if h != newHeader(isSealed|byAcceptorsKey, ec, rrc, s.in) {
		return nil, fmt.Errorf("the header of a sealed message is %x, and number %d is next", h, s.in)
	}
	back := int(rrc) % len(c)
	plain, err := s.et.DecryptMessage(s.key.KeyValue, append(bytes.Clone(c[back:]), c[:back]...), usageInitiator)
	if err != nil {
		return nil, fmt.Errorf("the seal of a message is broken: %w", err)
	}
	end := len(plain) - len(h)
	inner := newHeader(h[2], ec, 0, s.in)
	if end < int(ec) || !bytes.Equal(plain[end:], inner[:]) {
		return nil, errors.New("the header of a sealed message was changed")
	}
	s.in++
	return plain[:end-int(ec)], nil
}
