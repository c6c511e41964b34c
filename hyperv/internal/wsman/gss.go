package wsman

import (
	"bytes"
	"crypto/md5"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/crypto/etype"
	"github.com/jcmturner/gokrb5/v8/iana/chksumtype"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// gssContext is the initiator's side of a GSS-API security context of the
// Kerberos mechanism (RFC 4121): mutual login, and sealed messages in order.
// gokrb5 has Kerberos' messages and ciphers, but neither of these.
type gssContext struct {
	session types.EncryptionKey // of the ticket
	auth    types.Authenticator
	key     types.EncryptionKey // seals messages
	et      etype.EType
	// acceptorKey reports that key is the one that the acceptor chose.
	acceptorKey    bool
	sent, received uint64 // the next sequence numbers
}

// mechanism is the DER form of the OID of Kerberos V5, 1.2.840.113554.1.2.2.
var mechanism = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}

// Kinds of tokens (RFC 4121, 4.1 and 4.2.6).
var (
	tokenRequest = []byte{1, 0}
	tokenReply   = []byte{2, 0}
	tokenError   = []byte{3, 0}
	tokenWrap    = []byte{5, 4}
)

// Flags of the checksum in the request (RFC 4121, 4.1.1.1): mutual, replay
// detection, sequence, confidentiality, integrity.
const gssFlags = 2 | 4 | 8 | 16 | 32

// newGSS makes the token that begins a login. binding is the application data
// of channel bindings, or nil.
func newGSS(tkt messages.Ticket, session types.EncryptionKey, realm string, name types.PrincipalName, binding []byte) (*gssContext, []byte, error) {
	et, err := aes(session)
	if err != nil {
		return nil, nil, fmt.Errorf("the ticket's key: %w", err)
	}
	g := &gssContext{session: session, et: et}
	if g.auth, err = types.NewAuthenticator(realm, name); err != nil {
		return nil, nil, err
	}
	if err := g.auth.GenerateSeqNumberAndSubKey(session.KeyType, g.et.GetKeyByteSize()); err != nil {
		return nil, nil, err
	}
	sum := binary.LittleEndian.AppendUint32(nil, 16)
	sum = append(sum, bindingHash(binding)...)
	sum = binary.LittleEndian.AppendUint32(sum, gssFlags)
	g.auth.Cksum = types.Checksum{CksumType: chksumtype.GSSAPI, Checksum: sum}
	rq, err := messages.NewAPReq(tkt, session, g.auth)
	if err != nil {
		return nil, nil, err
	}
	types.SetFlag(&rq.APOptions, flags.APOptionMutualRequired)
	b, err := rq.Marshal()
	if err != nil {
		return nil, nil, err
	}
	g.sent = uint64(g.auth.SeqNumber)
	return g, asn1tools.AddASNAppTag(bytes.Join([][]byte{mechanism, tokenRequest, b}, nil), 0), nil
}

// aes returns the cipher of a key, which must be AES. RC4 and DES seal in
// another way (RFC 4757), and Windows is phasing them out.
func aes(key types.EncryptionKey) (etype.EType, error) {
	switch key.KeyType {
	case etypeID.AES128_CTS_HMAC_SHA1_96, etypeID.AES256_CTS_HMAC_SHA1_96, etypeID.AES128_CTS_HMAC_SHA256_128, etypeID.AES256_CTS_HMAC_SHA384_192:
	default:
		return nil, fmt.Errorf("it is of encryption type %d: allow AES for the accounts of the user and of the host", key.KeyType)
	}
	et, err := crypto.GetEtype(key.KeyType)
	if err == nil && len(key.KeyValue) != et.GetKeyByteSize() {
		err = fmt.Errorf("it has %d bytes", len(key.KeyValue))
	}
	return et, err
}

// decrypt decrypts a text that anybody may have sent. gokrb5 panics on short
// ones.
func decrypt(et etype.EType, key types.EncryptionKey, cipher []byte, usage uint32) ([]byte, error) {
	if len(cipher) < et.GetConfounderByteSize()+et.GetHMACBitLength()/8 {
		return nil, errors.New("the encrypted part is too short")
	}
	return et.DecryptMessage(key.KeyValue, cipher, usage)
}

// bindingHash is the Bnd field (RFC 4121, 4.1.1.2): an MD5 hash of channel
// bindings without addresses, or zeros.
func bindingHash(data []byte) []byte {
	if data == nil {
		return make([]byte, md5.Size)
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 16), uint32(len(data)))
	sum := md5.Sum(append(b, data...))
	return sum[:]
}

// accept reads the acceptor's answer, which proves that the acceptor could
// read the ticket.
func (g *gssContext) accept(token []byte) error {
	kind, body, err := openToken(token)
	if err != nil {
		return err
	}
	if !bytes.Equal(kind, tokenReply) {
		return fmt.Errorf("a token of kind %x in place of the host's answer", kind)
	}
	var rep messages.APRep
	if err := rep.Unmarshal(body); err != nil {
		return err
	}
	if rep.EncPart.EType != g.session.KeyType {
		return fmt.Errorf("the host's answer is of encryption type %d", rep.EncPart.EType)
	}
	et, err := aes(g.session)
	if err != nil {
		return err
	}
	plain, err := decrypt(et, g.session, rep.EncPart.Cipher, keyusage.AP_REP_ENCPART)
	if err != nil {
		return err
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return err
	}
	if !part.CTime.Equal(g.auth.CTime.Truncate(time.Second)) || part.Cusec != g.auth.Cusec {
		return errors.New("the host's answer belongs to another login")
	}
	g.key, g.received = g.auth.SubKey, uint64(part.SequenceNumber)&0xffffffff
	if len(part.Subkey.KeyValue) > 0 {
		g.key, g.acceptorKey = part.Subkey, true
		if g.et, err = aes(g.key); err != nil {
			return fmt.Errorf("the key that the host chose: %w", err)
		}
	}
	return nil
}

// openToken removes the frame of RFC 2743, 3.1 from a token.
func openToken(token []byte) (kind, body []byte, err error) {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(token, &raw); err != nil {
		return nil, nil, fmt.Errorf("the host's token: %w", err)
	}
	rest, ok := bytes.CutPrefix(raw.Bytes, mechanism)
	if raw.Class != asn1.ClassApplication || raw.Tag != 0 || !ok || len(rest) < 2 {
		return nil, nil, errors.New("the host's token is not a Kerberos token")
	}
	return rest[:2], rest[2:], nil
}

// kerberosError reads an error message (KRB-ERROR).
func kerberosError(b []byte) error {
	var e messages.KRBError
	if err := e.Unmarshal(b); err != nil {
		return err
	}
	return e
}

// Flags of wrap tokens (RFC 4121, 4.2.2).
const (
	sentByAcceptor = 1
	confidential   = 2
	acceptorSubkey = 4
)

const wrapHeader = 16

// seal makes a wrap token (RFC 4121, 4.2.6.2) and splits it as SSPI does: the
// header of the token and everything that encryption adds are the signature,
// and the rest is as long as the message. For this, the end of the cipher
// text is rotated to its front.
func (g *gssContext) seal(msg []byte) (signature, sealed []byte, err error) {
	h := wrapToken(confidential, 0, 0, g.sent)
	if g.acceptorKey {
		h[2] |= acceptorSubkey
	}
	_, cipher, err := g.et.EncryptMessage(g.key.KeyValue, append(bytes.Clone(msg), h...), keyusage.GSSAPI_INITIATOR_SEAL)
	if err != nil {
		return nil, nil, err
	}
	g.sent++
	added := wrapHeader + g.et.GetHMACBitLength()/8 // behind the message
	binary.BigEndian.PutUint16(h[6:], uint16(added))
	token := append(h, rotate(cipher, len(cipher)-added)...)
	n := len(token) - len(msg)
	return token[:n], token[n:], nil
}

func wrapToken(flag byte, extra, rotation uint16, seq uint64) []byte {
	h := append(bytes.Clone(tokenWrap), flag, 0xff)
	h = binary.BigEndian.AppendUint16(h, extra)
	h = binary.BigEndian.AppendUint16(h, rotation)
	return binary.BigEndian.AppendUint64(h, seq)
}

// rotate moves the first n bytes to the end.
func rotate(b []byte, n int) []byte { return append(bytes.Clone(b[n:]), b[:n]...) }

// unseal reads a wrap token of the acceptor. It must be the next in order.
func (g *gssContext) unseal(signature, sealed []byte) ([]byte, error) {
	token := append(bytes.Clone(signature), sealed...)
	if len(token) <= wrapHeader {
		return nil, errors.New("sealed reply is too short")
	}
	h, cipher := token[:wrapHeader], token[wrapHeader:]
	want := byte(confidential | sentByAcceptor)
	if g.acceptorKey {
		want |= acceptorSubkey
	}
	extra, rotation := int(binary.BigEndian.Uint16(h[4:])), int(binary.BigEndian.Uint16(h[6:]))
	if !bytes.Equal(h[:4], append(bytes.Clone(tokenWrap), want, 0xff)) {
		return nil, errors.New("sealed reply has the wrong header")
	}
	if seq := binary.BigEndian.Uint64(h[8:]); seq != g.received {
		return nil, fmt.Errorf("sealed reply has number %d in place of %d", seq, g.received)
	}
	plain, err := decrypt(g.et, g.key, rotate(cipher, rotation%len(cipher)), keyusage.GSSAPI_ACCEPTOR_SEAL)
	if err != nil && extra > 0 {
		// Windows may rotate by the extra bytes too (MS-KILE 3.4.5.4.1).
		plain, err = decrypt(g.et, g.key, rotate(cipher, (rotation+extra)%len(cipher)), keyusage.GSSAPI_ACCEPTOR_SEAL)
	}
	if err != nil {
		return nil, err
	}
	n := len(plain) - wrapHeader
	// The encrypted copy of the header has no rotation yet.
	if n < extra || !bytes.Equal(plain[n:], wrapToken(want, uint16(extra), 0, g.received)) {
		return nil, errors.New("the header of the sealed reply was changed")
	}
	g.received++
	return plain[:n-extra], nil
}
