package krbd

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

const testRealm = "EXAMPLE.TEST"

// host is an acceptor and a ticket for it, valid from an hour ago for two hours.
func host(t testing.TB) (*Acceptor, messages.Ticket, types.EncryptionKey) {
	t.Helper()
	kt := keytab.New()
	if err := kt.AddEntry("HTTP/hv01", testRealm, "secret", time.Now(), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	b, err := kt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keytab")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UTC().Add(-time.Hour)
	tkt, key, err := messages.NewTicket(types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "ann"), testRealm, types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "HTTP/hv01"), testRealm,
		types.NewKrbFlags(), kt, etypeID.AES256_CTS_HMAC_SHA1_96, 1, begin, begin, begin.Add(2*time.Hour), begin.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &Acceptor{Keytab: file, Now: time.Now}, tkt, key
}

// request lets gokrb5, which knows no sealing, make a request.
func request(t testing.TB, tkt messages.Ticket, key types.EncryptionKey, user string, flags ...int) []byte {
	t.Helper()
	cl := client.NewWithPassword(user, testRealm, "", config.New())
	k, err := spnego.NewKRB5TokenAPREQ(cl, tkt, key, flags, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAccept(t *testing.T) {
	a, tkt, key := host(t)
	l, err := a.Accept(request(t, tkt, key, "ann", gssapi.ContextFlagMutual), nil, false)
	if err != nil || l.User != "ann" || l.Realm != testRealm || l.Session == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, ok := unframe(l.Reply, 2); !ok {
		t.Errorf("reply %x", l.Reply)
	}
	if l, err = a.Accept(request(t, tkt, key, "ann"), nil, false); err != nil || l.Session != nil || l.Reply != nil {
		t.Errorf("without mutual authentication: %+v, %v", l, err)
	}
}

func TestRefusals(t *testing.T) {
	a, tkt, key := host(t)
	once := request(t, tkt, key, "ann")
	if _, err := a.Accept(once, nil, false); err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) *Acceptor {
		return &Acceptor{Keytab: a.Keytab, Now: func() time.Time { return time.Now().Add(d) }}
	}
	elsewhere := tkt
	elsewhere.SName = types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "HTTP/hv02")
	wrongKey := types.EncryptionKey{KeyType: key.KeyType, KeyValue: bytes.Repeat([]byte{1}, 32)}
	for name, k := range map[string]struct {
		a       *Acceptor
		token   []byte
		binding []byte
		strict  bool
		code    int32 // of the token in the refusal; 0: none
	}{
		"seen before":     {a: a, token: once, code: errRepeat},
		"another user":    {a: a, token: request(t, tkt, key, "bob"), code: errModified},
		"another service": {a: a, token: request(t, elsewhere, key, "ann"), code: errModified},
		"another key":     {a: a, token: request(t, tkt, wrongKey, "ann"), code: errModified},
		"clock":           {a: at(6 * time.Minute), token: request(t, tkt, key, "ann"), code: errSkew},
		"clock behind":    {a: at(-6 * time.Minute), token: request(t, tkt, key, "ann"), code: errSkew},
		"no binding":      {a: a, token: request(t, tkt, key, "ann"), binding: []byte("b"), strict: true},
		"garbage":         {a: a, token: []byte("garbage")},
		"NTLM":            {a: a, token: []byte("NTLMSSP\x00\x01\x00\x00\x00")},
	} {
		l, err := k.a.Accept(k.token, k.binding, k.strict)
		var r *Refusal
		if !errors.As(err, &r) || l != nil {
			t.Errorf("%s: %+v, %v", name, l, err)
			continue
		}
		var e messages.KRBError
		if b, ok := unframe(r.Reply, 3); ok {
			if err := e.Unmarshal(b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if e.ErrorCode != k.code {
			t.Errorf("%s: code %d, want %d", name, e.ErrorCode, k.code)
		}
	}
	if _, err := a.Accept(request(t, tkt, key, "ann"), []byte("b"), false); err != nil {
		t.Errorf("no binding where none is demanded: %v", err)
	}
}

// TestTicketTimes: the ticket's own times count, with the clocks in step.
func TestTicketTimes(t *testing.T) {
	a, _, _ := host(t)
	kt, err := keytab.Load(a.Keytab)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		begin, end time.Duration
		code       int32
	}{"ended": {-3 * time.Hour, -time.Hour, errExpired}, "later": {time.Hour, 2 * time.Hour, errNotYetValid}, "just ended": {-time.Hour, -time.Minute, 0}} {
		now := time.Now().UTC()
		tkt, key, err := messages.NewTicket(types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "ann"), testRealm, types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "HTTP/hv01"), testRealm,
			types.NewKrbFlags(), kt, etypeID.AES256_CTS_HMAC_SHA1_96, 1, now.Add(k.begin), now.Add(k.begin), now.Add(k.end), now.Add(k.end))
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Accept(request(t, tkt, key, "ann"), nil, false)
		var e messages.KRBError
		var r *Refusal
		if errors.As(err, &r) {
			if b, ok := unframe(r.Reply, 3); ok {
				if err := e.Unmarshal(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		if e.ErrorCode != k.code || (err == nil) != (k.code == 0) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAccept(f *testing.F) {
	a, tkt, key := host(f)
	f.Add(request(f, tkt, key, "ann"))
	if b, err := base64.StdEncoding.DecodeString("YIIBAAYGKwYBBQUCoIH1"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := a.Accept(b, nil, true); err == nil && l.User != "ann" {
			t.Fatalf("%+v", l)
		}
	})
}
