package wsman

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Sealed messages are multipart bodies of MS-WSMV 2.2.9.1: a part with the
// type and length of the message, and a part with the length of the
// signature, the signature and the encrypted message. The headers of the
// parts are indented, and no empty line ends them.
const (
	boundary  = "--Encrypted Boundary"
	partStart = "Content-Type: application/octet-stream\r\n"
)

// sealer has the keys of one connection. Both directions number their
// messages, so the order matters.
type sealer interface {
	seal(msg []byte) (signature, sealed []byte, err error)
	unseal(signature, sealed []byte) ([]byte, error)
}

func sealedType(protocol string) string {
	return `multipart/encrypted;protocol="` + protocol + `";boundary="Encrypted Boundary"`
}

func seal(s sealer, protocol string, msg []byte) ([]byte, error) {
	signature, sealed, err := s.seal(msg)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n\tContent-Type: %s\r\n\tOriginalContent: type=%s;Length=%d\r\n%s\r\n\t%s",
		boundary, protocol, contentType, len(msg), boundary, partStart)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(signature))))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes(), nil
}

// unseal refuses a reply that is not sealed: an attacker on the wire could
// have made it.
func unseal(s sealer, body []byte, ct string) ([]byte, error) {
	if len(body) == 0 {
		return nil, nil
	}
	if !strings.HasPrefix(ct, "multipart/encrypted") {
		return nil, fmt.Errorf("reply is not sealed (%s)", ct)
	}
	i := bytes.Index(body, []byte(partStart))
	j := bytes.LastIndex(body, []byte(boundary+"--"))
	if i < 0 || j < i {
		return nil, errors.New("sealed reply is malformed")
	}
	data := body[i+len(partStart) : j]
	if len(data) < 4 {
		return nil, errors.New("sealed reply is too short")
	}
	n := binary.LittleEndian.Uint32(data)
	if n > 1024 || int(n) > len(data)-4 {
		return nil, errors.New("signature of the sealed reply is too long")
	}
	return s.unseal(data[4:4+n], data[4+n:])
}
