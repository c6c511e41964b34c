package ntlmd

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
)

// Unwrap finds the NTLM message in a token: raw, or inside SPNEGO [D: RFC 4178, MS-SPNG]. Init means that the token opened a
// SPNEGO exchange without carrying an NTLM message.
func Unwrap(token []byte) (msg []byte, spnego bool) {
	if bytes.HasPrefix(token, signature) {
		return token, false
	}
	i := bytes.Index(token, signature)
	if i < 0 {
		return nil, true
	}
	// The message is the content of an OCTET STRING whose length is right before it.
	for _, w := range []int{1, 2, 3, 4} {
		if i < w+1 {
			continue
		}
		var raw asn1.RawValue
		if token[i-w-1] != asn1.TagOctetString {
			continue
		}
		if _, err := asn1.Unmarshal(token[i-w-1:], &raw); err == nil && bytes.HasPrefix(raw.Bytes, signature) {
			return raw.Bytes, true
		}
	}
	return token[i:], true
}

var oidNTLM = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 2, 10}

// Wrap puts an NTLM message into a NegTokenResp. done means that the login is complete.
func Wrap(msg []byte, done bool) ([]byte, error) {
	tlv := func(tag byte, content []byte) []byte {
		b := []byte{tag}
		if n := len(content); n < 0x80 {
			b = append(b, byte(n))
		} else {
			b = append(b, 0x82)
			b = binary.BigEndian.AppendUint16(b, uint16(n))
		}
		return append(b, content...)
	}
	state := byte(1) // accept-incomplete
	if done {
		state = 0
	}
	seq := tlv(0xa0, []byte{asn1.TagEnum, 1, state})
	if !done {
		oid, err := asn1.Marshal(oidNTLM)
		if err != nil {
			return nil, err
		}
		seq = append(seq, tlv(0xa1, oid)...)
	}
	if msg != nil {
		seq = append(seq, tlv(0xa2, tlv(asn1.TagOctetString, msg))...)
	}
	return tlv(0xa1, tlv(0x30, seq)), nil
}
