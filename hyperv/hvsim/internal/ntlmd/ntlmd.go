// Package ntlmd is the server side of NTLMv2 as a simulated WinRM listener needs it: challenge, verification with
// message integrity code and channel binding, and sealed messages [D: MS-NLMP]. It is for tests: NTLM is weak.
package ntlmd

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is built on MD4
	"golang.org/x/crypto/md4"
)

// ErrRefused is wrapped by every refusal of a login.
var ErrRefused = errors.New("login refused")

func refuse(why string) error { return errors.Join(ErrRefused, errors.New(why)) }

// Negotiate flags [D: MS-NLMP 2.2.2.5].
const (
	flUnicode    = 0x00000001
	flTarget     = 0x00000004
	flSign       = 0x00000010
	flSeal       = 0x00000020
	flNTLM       = 0x00000200
	flAlwaysSign = 0x00008000
	flServer     = 0x00020000
	flExtended   = 0x00080000
	flTargetInfo = 0x00800000
	flVersion    = 0x02000000
	fl128        = 0x20000000
	flKeyExch    = 0x40000000
	fl56         = 0x80000000
)

// AV pair IDs [D: MS-NLMP 2.2.2.1].
const (
	avEOL, avComputer, avDomain, avDNSComputer, avDNSDomain, avFlags, avTime, avBinding = 0, 1, 2, 3, 4, 6, 7, 10
)

var signature = []byte("NTLMSSP\x00")

// Login is one authentication on one connection.
type Login struct {
	Computer string
	// Password looks a user up.
	Password func(user string) (string, bool)
	// Certificate is the raw server certificate on TLS, for channel binding; nil on plain connections.
	Certificate []byte
	// RequireBinding refuses a login on TLS without a channel binding.
	RequireBinding bool
	// Without are flags that the CHALLENGE message lacks.
	Without uint32

	negotiate, challenge []byte
	nonce                [8]byte
}

// Challenge answers a NEGOTIATE message with a CHALLENGE message.
func (l *Login) Challenge(msg []byte) ([]byte, error) {
	if len(msg) < 16 || !bytes.HasPrefix(msg, signature) || binary.LittleEndian.Uint32(msg[8:]) != 1 {
		return nil, refuse("not a NEGOTIATE message")
	}
	if _, err := rand.Read(l.nonce[:]); err != nil {
		return nil, err
	}
	want := binary.LittleEndian.Uint32(msg[12:])
	flags := uint32(flUnicode|flTarget|flNTLM|flAlwaysSign|flServer|flExtended|flTargetInfo|flVersion) | want&(flSign|flSeal|fl128|fl56|flKeyExch)
	flags &^= l.Without
	name := utf16le(l.Computer)
	var info []byte
	pair := func(id uint16, v []byte) {
		info = binary.LittleEndian.AppendUint16(info, id)
		info = binary.LittleEndian.AppendUint16(info, uint16(len(v)))
		info = append(info, v...)
	}
	pair(avDomain, name)
	pair(avComputer, name)
	pair(avDNSDomain, name)
	pair(avDNSComputer, name)
	pair(avTime, binary.LittleEndian.AppendUint64(nil, filetime(time.Now())))
	pair(avEOL, nil)

	m := append([]byte(nil), signature...)
	m = binary.LittleEndian.AppendUint32(m, 2)
	m = field(m, len(name), 56)
	m = binary.LittleEndian.AppendUint32(m, flags)
	m = append(m, l.nonce[:]...)
	m = append(m, make([]byte, 8)...)
	m = field(m, len(info), 56+len(name))
	m = append(m, 10, 0, 0x7c, 0x4f, 0, 0, 0, 15) // Windows 10.0.20348, NTLM revision 15
	m = append(m, name...)
	m = append(m, info...)
	l.negotiate, l.challenge = msg, m
	return m, nil
}

func field(m []byte, n, offset int) []byte {
	m = binary.LittleEndian.AppendUint16(m, uint16(n))
	m = binary.LittleEndian.AppendUint16(m, uint16(n))
	return binary.LittleEndian.AppendUint32(m, uint32(offset))
}

// Authenticate checks an AUTHENTICATE message. The session seals messages if the client asked for it; otherwise it is nil.
func (l *Login) Authenticate(msg []byte) (user string, s *Session, err error) {
	if len(msg) < 64 || !bytes.HasPrefix(msg, signature) || binary.LittleEndian.Uint32(msg[8:]) != 3 || l.challenge == nil {
		return "", nil, refuse("not an AUTHENTICATE message")
	}
	get := func(at int) []byte {
		n, off := int(binary.LittleEndian.Uint16(msg[at:])), int(binary.LittleEndian.Uint32(msg[at+4:]))
		if off < 0 || off+n > len(msg) {
			return nil
		}
		return msg[off : off+n]
	}
	nt, domain, name, key := get(20), get(28), get(36), get(52)
	flags := binary.LittleEndian.Uint32(msg[60:])
	if len(nt) < 16+28 {
		return "", nil, refuse("no NTLMv2 response")
	}
	user = fromUTF16(name)
	pass, known := l.Password(user)
	if !known {
		return "", nil, refuse("unknown user")
	}
	h := md4.New()
	h.Write(utf16le(pass))
	owf := mac(h.Sum(nil), utf16le(strings.ToUpper(user)), domain)
	proof, blob := nt[:16], nt[16:]
	if !hmac.Equal(proof, mac(owf, l.nonce[:], blob)) {
		return "", nil, refuse("wrong password")
	}
	session := mac(owf, proof)
	if flags&flKeyExch != 0 {
		if len(key) != 16 {
			return "", nil, refuse("no session key")
		}
		c, err := rc4.NewCipher(session)
		if err != nil {
			return "", nil, err
		}
		session = make([]byte, 16)
		c.XORKeyStream(session, key)
	}
	pairs := avPairs(blob[28:])
	if f := pairs[avFlags]; len(f) == 4 && f[0]&2 != 0 {
		if len(msg) < 88 {
			return "", nil, refuse("no message integrity code where its flag is set")
		}
		zeroed := append([]byte(nil), msg...)
		clear(zeroed[72:88])
		if !hmac.Equal(msg[72:88], mac(session, l.negotiate, l.challenge, zeroed)) {
			return "", nil, refuse("wrong message integrity code")
		}
	} // a client may send none: WinRM takes it [O: masterzen/winrm logs in so; MS-NLMP has the server check a code that is there]
	if l.Certificate != nil {
		b := pairs[avBinding]
		none := len(b) == 0 || bytes.Equal(b, make([]byte, 16))
		if none && l.RequireBinding {
			return "", nil, refuse("no channel binding")
		}
		if !none && !bytes.Equal(b, Binding(l.Certificate)) {
			return "", nil, refuse("the channel binding is for another channel")
		}
	}
	if flags&flSeal == 0 {
		return user, nil, nil
	}
	s, err = newSession(session, flags)
	return user, s, err
}

// Binding is the channel binding hash of a certificate signed with SHA-256 [D: RFC 5929 tls-server-end-point; MS-NLMP].
func Binding(cert []byte) []byte {
	sum := sha256.Sum256(cert)
	data := append([]byte("tls-server-end-point:"), sum[:]...)
	b := make([]byte, 16)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	h := md5.Sum(append(b, data...))
	return h[:]
}

func avPairs(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	for len(b) >= 4 {
		id, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if id == avEOL || len(b) < 4+n {
			break
		}
		out[id] = b[4 : 4+n]
		b = b[4+n:]
	}
	return out
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func fromUTF16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func filetime(t time.Time) uint64 { return uint64(t.UnixNano()/100) + 116444736000000000 }

// Session seals and unseals the messages of a connection [D: MS-NLMP 3.4].
type Session struct {
	inSign, outSign []byte
	in, out         *rc4.Cipher
	inSeq, outSeq   uint32
	exchange        bool
}

func newSession(key []byte, flags uint32) (*Session, error) {
	sealing := key
	switch {
	case flags&fl128 != 0:
	case flags&fl56 != 0:
		sealing = key[:7]
	default:
		sealing = key[:5]
	}
	derive := func(k []byte, magic string) []byte {
		h := md5.Sum(append(append([]byte(nil), k...), magic+"\x00"...))
		return h[:]
	}
	s := &Session{exchange: flags&flKeyExch != 0,
		inSign:  derive(key, "session key to client-to-server signing key magic constant"),
		outSign: derive(key, "session key to server-to-client signing key magic constant")}
	var err error
	if s.in, err = rc4.NewCipher(derive(sealing, "session key to client-to-server sealing key magic constant")); err != nil {
		return nil, err
	}
	s.out, err = rc4.NewCipher(derive(sealing, "session key to server-to-client sealing key magic constant"))
	return s, err
}

func (s *Session) sign(c *rc4.Cipher, key []byte, seq uint32, msg []byte) []byte {
	n := binary.LittleEndian.AppendUint32(nil, seq)
	sum := mac(key, n, msg)[:8]
	if s.exchange {
		c.XORKeyStream(sum, sum)
	}
	return append(append([]byte{1, 0, 0, 0}, sum...), n...)
}

// Seal encrypts and signs a message: 4 bytes length of the signature, signature, message.
func (s *Session) Seal(msg []byte) ([]byte, error) {
	sealed := make([]byte, len(msg))
	s.out.XORKeyStream(sealed, msg)
	sig := s.sign(s.out, s.outSign, s.outSeq, msg)
	s.outSeq++
	return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(sig))), sig...), sealed...), nil
}

// Open decrypts a message that Seal's counterpart has made, and checks its signature and place.
func (s *Session) Open(b []byte) ([]byte, error) {
	if len(b) < 20 || binary.LittleEndian.Uint32(b) != 16 {
		return nil, errors.New("a sealed message has no signature")
	}
	msg := make([]byte, len(b)-20)
	s.in.XORKeyStream(msg, b[20:])
	if !hmac.Equal(s.sign(s.in, s.inSign, s.inSeq, msg), b[4:20]) {
		return nil, errors.New("the signature of a sealed message is wrong")
	}
	s.inSeq++
	return msg, nil
}
