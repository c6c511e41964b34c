// Package krbd is the acceptor's side of Kerberos logins for a simulated WinRM listener: the request is checked with a keytab,
// the answer proves the host's identity, and messages are sealed [D: RFC 4120, RFC 4121, RFC 4178].
package krbd

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	forkasn1 "github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

// skew is the largest difference between clocks [D: RFC 4120 1.6; also the default of Windows].
const skew = 5 * time.Minute

// Error codes [D: RFC 4120 7.5.9].
const (
	errExpired     = 32
	errNotYetValid = 33
	errRepeat      = 34
	errSkew        = 37
	errModified    = 41
	errBadChecksum = 50
)

// Acceptor checks logins for one host.
type Acceptor struct {
	// Keytab is a file. It is read for each login, since Windows changes the key of a host every month.
	Keytab string
	// Now is the host's clock.
	Now func() time.Time

	mu   sync.Mutex
	seen map[string]time.Time // authenticators that were used
}

// Refusal is a request that the acceptor does not accept. Reply, if not nil, is the token that reports the reason to the client.
type Refusal struct {
	Reply []byte
	Err   error
}

func (r *Refusal) Error() string { return "login refused: " + r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Login is a request that was accepted.
type Login struct {
	User, Realm string
	// Reply is the token of the answer, and Session has the keys of the connection. Without mutual authentication there
	// is no answer, and messages are not sealed here.
	Reply   []byte
	Session *Session
}

// token is a client's first token, without its frames.
type token struct {
	request []byte
	spnego  bool
}

var mechKerberos = []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2}

// Is reports whether a token begins a login with Kerberos, by itself or inside SPNEGO with Kerberos as the mechanism that
// the client prefers.
func Is(raw []byte) bool {
	_, err := open(raw)
	return err == nil
}

func open(raw []byte) (token, error) {
	if b, ok := unframe(raw, 1); ok {
		return token{request: b}, nil
	}
	var t spnego.SPNEGOToken
	if err := t.Unmarshal(raw); err != nil {
		return token{}, err
	}
	if !t.Init || len(t.NegTokenInit.MechTypes) == 0 {
		return token{}, errors.New("no NegTokenInit")
	}
	if m := t.NegTokenInit.MechTypes[0]; !m.Equal(gssapi.OIDKRB5.OID()) && !m.Equal(gssapi.OIDMSLegacyKRB5.OID()) {
		return token{}, errors.New("the client prefers another mechanism")
	}
	b, ok := unframe(t.NegTokenInit.MechTokenBytes, 1)
	if !ok {
		return token{}, errors.New("no request in the NegTokenInit")
	}
	return token{request: b, spnego: true}, nil
}

// unframe removes the frame from a token of a kind [D: RFC 2743 3.1; RFC 4121 4.1].
func unframe(raw []byte, kind byte) ([]byte, bool) {
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(raw, &v); err != nil || len(rest) > 0 || v.Class != asn1.ClassApplication || v.Tag != 0 {
		return nil, false
	}
	return bytes.CutPrefix(v.Bytes, append(bytes.Clone(mechKerberos), kind, 0))
}

// frame is the inverse, and puts the token into a NegTokenResp if the client's was in SPNEGO.
func (t token) frame(kind byte, msg []byte) ([]byte, error) {
	b, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, IsCompound: true, Bytes: append(append(bytes.Clone(mechKerberos), kind, 0), msg...)})
	if err != nil || !t.spnego {
		return b, err
	}
	n := spnego.NegTokenResp{NegState: forkasn1.Enumerated(spnego.NegStateAcceptCompleted), SupportedMech: gssapi.OIDKRB5.OID(), ResponseToken: b}
	if kind == 3 {
		n.NegState = forkasn1.Enumerated(spnego.NegStateReject)
	}
	return n.Marshal()
}

// Accept checks a login. binding is the application data of the channel's bindings, or nil on a channel without them. strict
// refuses a request that is not bound to the channel.
func (a *Acceptor) Accept(raw, binding []byte, strict bool) (*Login, error) {
	t, err := open(raw)
	if err != nil {
		return nil, &Refusal{Err: err}
	}
	var rq messages.APReq
	if err := rq.Unmarshal(t.request); err != nil {
		return nil, &Refusal{Err: err}
	}
	refuse := func(code int32, why string) error {
		r := &Refusal{Err: errors.New(why)}
		// That the answer carries the error is believed, not seen [M].
		e := messages.NewKRBError(rq.Ticket.SName, rq.Ticket.Realm, code, why)
		if b, err := e.Marshal(); err == nil {
			r.Reply, _ = t.frame(3, b)
		}
		return r
	}
	keys, err := keytab.Load(a.Keytab)
	if err != nil {
		return nil, &Refusal{Err: err}
	}
	if err := rq.Ticket.DecryptEncPart(keys, &rq.Ticket.SName); err != nil {
		return nil, refuse(errModified, err.Error())
	}
	tkt := rq.Ticket.DecryptedEncPart
	if err := rq.DecryptAuthenticator(tkt.Key); err != nil {
		return nil, refuse(errModified, err.Error())
	}
	now, auth := a.Now(), rq.Authenticator
	begin := tkt.StartTime
	if begin.IsZero() {
		begin = tkt.AuthTime
	}
	stamp := auth.CTime.Add(time.Duration(auth.Cusec) * time.Microsecond)
	switch {
	case !auth.CName.Equal(tkt.CName) || auth.CRealm != tkt.CRealm:
		return nil, refuse(errModified, "the authenticator names another user than the ticket")
	case stamp.Sub(now).Abs() > skew:
		return nil, refuse(errSkew, "the clocks differ")
	case now.Add(skew).Before(begin):
		return nil, refuse(errNotYetValid, "the ticket is not valid yet")
	case now.Add(-skew).After(tkt.EndTime):
		return nil, refuse(errExpired, "the ticket has ended")
	case !a.first(fmt.Sprintf("%s@%s %v %x", auth.CName.PrincipalNameString(), auth.CRealm, stamp, rq.EncryptedAuthenticator.Cipher), now):
		return nil, refuse(errRepeat, "the request was seen before")
	}
	// [D: RFC 4121 4.1.1] the checksum carries the bindings and the flags.
	sum := auth.Cksum.Checksum
	if auth.Cksum.CksumType != 0x8003 || len(sum) < 24 || binary.LittleEndian.Uint32(sum) != 16 {
		return nil, refuse(errBadChecksum, "no GSS-API checksum")
	}
	if bound := !bytes.Equal(sum[4:20], make([]byte, 16)); binding != nil && (bound || strict) && !hmac.Equal(sum[4:20], bindingHash(binding)) {
		// Without a token, because requests-kerberos then tries again with a binding [L], and could not with one.
		return nil, &Refusal{Err: errors.New("the request is not bound to this channel")}
	}
	l := &Login{User: tkt.CName.PrincipalNameString(), Realm: tkt.CRealm}
	const mutual = 2
	if binary.LittleEndian.Uint32(sum[20:])&mutual == 0 {
		return l, nil
	}
	var rep []byte
	if l.Session, rep, err = answer(tkt.Key, auth); err != nil {
		return nil, &Refusal{Err: err}
	}
	l.Reply, err = t.frame(2, rep)
	return l, err
}

// first records an authenticator and reports whether it is new.
func (a *Acceptor) first(id string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, at := range a.seen {
		if now.Sub(at).Abs() > 2*skew {
			delete(a.seen, k)
		}
	}
	if _, known := a.seen[id]; known {
		return false
	}
	if a.seen == nil {
		a.seen = map[string]time.Time{}
	}
	a.seen[id] = now
	return true
}

// bindingHash is the hash of channel bindings without addresses [D: RFC 4121 4.1.1.2; RFC 2744 3.11].
func bindingHash(data []byte) []byte {
	h := md5.New()
	for _, n := range []uint32{0, 0, 0, 0, uint32(len(data))} {
		_ = binary.Write(h, binary.LittleEndian, n) // a hash accepts everything
	}
	h.Write(data)
	return h.Sum(nil)
}

// encReply is the encrypted part of the answer [D: RFC 4120 5.5.2].
type encReply struct {
	CTime          time.Time           `asn1:"generalized,explicit,tag:0"`
	Cusec          int                 `asn1:"explicit,tag:1"`
	Subkey         types.EncryptionKey `asn1:"explicit,tag:2"`
	SequenceNumber int64               `asn1:"explicit,tag:3"`
}

type reply struct {
	PVNO    int                 `asn1:"explicit,tag:0"`
	MsgType int                 `asn1:"explicit,tag:1"`
	EncPart types.EncryptedData `asn1:"explicit,tag:2"`
}

func application(tag int, v any) ([]byte, error) {
	b, err := forkasn1.Marshal(v)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, Tag: tag, IsCompound: true, Bytes: b})
}

// answer makes the answer to a request, with a key of the acceptor's own, like Windows does [M].
func answer(key types.EncryptionKey, auth types.Authenticator) (*Session, []byte, error) {
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return nil, nil, err
	}
	sub := types.EncryptionKey{KeyType: key.KeyType, KeyValue: make([]byte, et.GetKeyByteSize())}
	rand.Read(sub.KeyValue) // never fails
	var seq [4]byte
	rand.Read(seq[:])
	s := &Session{key: sub, et: et, in: uint64(auth.SeqNumber) & 0xffffffff, out: uint64(binary.BigEndian.Uint32(seq[:]) >> 2)}
	const partTag, repTag, msgType, usage = 27, 15, 15, 12
	part, err := application(partTag, encReply{auth.CTime, auth.Cusec, sub, int64(s.out)})
	if err != nil {
		return nil, nil, err
	}
	enc, err := crypto.GetEncryptedData(part, key, usage, 0)
	if err != nil {
		return nil, nil, err
	}
	rep, err := application(repTag, reply{5, msgType, enc})
	return s, rep, err
}
