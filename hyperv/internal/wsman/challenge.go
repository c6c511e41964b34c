package wsman

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
)

// minimumFlags are the flags that a CHALLENGE must offer (MS-NLMP 2.2.2.5).
// Without SEAL messages are sent in the clear. Without
// EXTENDED_SESSIONSECURITY both directions share one key stream. Without
// KEY_EXCH and 128 the keys are weak. Without TARGET_INFO a login can't be
// bound to its TLS channel. Every Windows version that has Hyper-V offers
// them all.
var minimumFlags = []struct {
	flag uint32
	name string
}{
	{0x00000001, "UNICODE"}, {0x00000010, "SIGN"}, {0x00000020, "SEAL"}, {0x00080000, "EXTENDED_SESSIONSECURITY"},
	{0x00800000, "TARGET_INFO"}, {0x20000000, "128"}, {0x40000000, "KEY_EXCH"},
}

// WeakError is the refusal of a host whose NTLM is too weak, before the
// password was used for anything. A LoginError around it names the host.
type WeakError struct {
	Missing []string // flags
	Err     error    // other faults of the message
}

func (e *WeakError) Error() string {
	what := "it offers NTLM without " + strings.Join(e.Missing, ", ")
	if e.Err != nil {
		what = e.Err.Error()
	}
	return what + ". Nothing was sent, since somebody may be answering in the host's place: use HTTPS with the host's certificate (by its authority or its thumbprint), or Kerberos. " +
		`If it is the host, its policy "Minimum session security for NTLM SSP based servers" should require NTLMv2 session security and 128-bit encryption`
}

func (e *WeakError) Unwrap() error { return e.Err }

// checkChallenge reads a CHALLENGE (MS-NLMP 2.2.1.2) before ntlmssp does,
// which accepts any flags and panics on some lengths.
func checkChallenge(m []byte) error {
	if len(m) < 48 || !bytes.HasPrefix(m, []byte("NTLMSSP\x00\x02\x00\x00\x00")) {
		return &WeakError{Err: errors.New("its message is no CHALLENGE of NTLM")}
	}
	flags := binary.LittleEndian.Uint32(m[20:])
	weak := &WeakError{}
	for _, f := range minimumFlags {
		if flags&f.flag == 0 {
			weak.Missing = append(weak.Missing, f.name)
		}
	}
	if weak.Missing != nil {
		return weak
	}
	// The parts of the message: length, length again, and place.
	part := func(at int) (b []byte, ok bool) {
		n, from := int64(binary.LittleEndian.Uint16(m[at:])), int64(binary.LittleEndian.Uint32(m[at+4:]))
		if from+n > int64(len(m)) {
			return nil, false
		}
		return m[from : from+n], true
	}
	name, ok := part(12)
	info, whole := part(40)
	if !ok || !whole || len(name)%2 != 0 || !pairs(info) {
		return &WeakError{Err: errors.New("its CHALLENGE of NTLM is malformed")}
	}
	return nil
}

// pairs reports whether these are attributes of a target (MS-NLMP 2.2.2.1): at
// least one, each once, and an end.
func pairs(b []byte) bool {
	seen := map[uint16]bool{}
	for len(b) >= 4 {
		id, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		switch b = b[4:]; {
		case id == 0: // the end
			return n == 0 && len(seen) > 0
		case n > len(b), seen[id], id == 6 && n != 4, id == 7 && n != 8: // flags and time
			return false
		}
		seen[id], b = true, b[n:]
	}
	return false
}
