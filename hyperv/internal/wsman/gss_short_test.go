package wsman

import (
	"slices"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// bare is the initiator's side of a login whose request went out.
func bare(t *testing.T, kind int32) *gssContext {
	t.Helper()
	et, err := crypto.GetEtype(kind)
	if err != nil {
		t.Fatal(err)
	}
	key := types.EncryptionKey{KeyType: kind, KeyValue: make([]byte, et.GetKeyByteSize())}
	return &gssContext{session: key, key: key, et: et, auth: types.Authenticator{CTime: time.Now().UTC(), SubKey: key}}
}

// answer is the token with which a host answers a login.
func answer(t *testing.T, data types.EncryptedData) []byte {
	b := marshal(t, messages.APRep{PVNO: 5, MsgType: msgtype.KRB_AP_REP, EncPart: data}, asnAppTag.APREP)
	return asn1tools.AddASNAppTag(slices.Concat(mechanism, tokenReply, b), 0)
}

func marshal(t *testing.T, v any, tag int) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return asn1tools.AddASNAppTag(b, tag)
}

// TestShortKerberos: answers whose ciphertext is too short, from whoever is on
// the wire.
func TestShortKerberos(t *testing.T) {
	for _, kind := range []int32{etypeID.AES128_CTS_HMAC_SHA1_96, etypeID.AES256_CTS_HMAC_SHA1_96, etypeID.AES128_CTS_HMAC_SHA256_128, etypeID.AES256_CTS_HMAC_SHA384_192} {
		g := bare(t, kind)
		for n := range 70 {
			if _, err := g.unseal(wrapToken(confidential|sentByAcceptor, 0, 0, 0), make([]byte, n)); err == nil {
				t.Errorf("type %d: %d bytes of nothing are a message", kind, n)
			}
			if err := g.accept(answer(t, types.EncryptedData{EType: kind, Cipher: make([]byte, n)})); err == nil {
				t.Errorf("type %d: %d bytes of nothing are an answer", kind, n)
			}
		}
	}
}

// TestWeakAcceptorKey: the host may choose the key of messages, but not a weak
// one.
func TestWeakAcceptorKey(t *testing.T) {
	g := bare(t, etypeID.AES256_CTS_HMAC_SHA1_96)
	for _, kind := range []int32{etypeID.RC4_HMAC, etypeID.DES3_CBC_SHA1_KD, etypeID.AES128_CTS_HMAC_SHA1_96} {
		et, err := crypto.GetEtype(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{et.GetKeyByteSize(), 3} {
			part := marshal(t, messages.EncAPRepPart{CTime: g.auth.CTime.Truncate(time.Second), Cusec: g.auth.Cusec,
				Subkey: types.EncryptionKey{KeyType: kind, KeyValue: make([]byte, size)}}, asnAppTag.EncAPRepPart)
			data, err := crypto.GetEncryptedData(part, g.session, keyusage.AP_REP_ENCPART, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := g.accept(answer(t, data)); (err == nil) != (kind == etypeID.AES128_CTS_HMAC_SHA1_96 && size > 3) {
				t.Errorf("type %d, %d bytes: %v", kind, size, err)
			}
		}
	}
}
