package ntlmd

import (
	"bytes"
	"errors"
	"testing"

	"github.com/bodgit/ntlmssp"
)

// handshake lets bodgit/ntlmssp log in; tamper may change the last message.
func handshake(t *testing.T, l *Login, user, pass string, bind *ntlmssp.ChannelBindings, tamper func([]byte) []byte) (*ntlmssp.Client, *Session, error) {
	t.Helper()
	c, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, pass), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Authenticate(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := l.Challenge(m)
	if err != nil {
		t.Fatal(err)
	}
	m, err = c.Authenticate(ch, bind)
	if err != nil {
		t.Fatal(err)
	}
	if tamper != nil {
		m = tamper(m)
	}
	_, s, err := l.Authenticate(m)
	return c, s, err
}

func login() *Login {
	return &Login{Computer: "HV01", Password: func(u string) (string, bool) { return "pässword", u == "Ann" }}
}

func TestLogin(t *testing.T) {
	c, s, err := handshake(t, login(), "Ann", "pässword", nil, nil)
	if err != nil || s == nil {
		t.Fatal(err)
	}
	for _, msg := range []string{"one", "", "three & more"} {
		sealed, sig, err := c.SecuritySession().Wrap([]byte(msg))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Open(append(append([]byte{16, 0, 0, 0}, sig...), sealed...))
		if err != nil || string(got) != msg {
			t.Fatalf("%q %v", got, err)
		}
		b, err := s.Seal([]byte(msg))
		if err != nil {
			t.Fatal(err)
		}
		if got, err = c.SecuritySession().Unwrap(b[20:], b[4:20]); err != nil || string(got) != msg {
			t.Fatalf("%q %v", got, err)
		}
	}
	sealed, sig, err := c.SecuritySession().Wrap([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	sealed[0] ^= 1
	if _, err := s.Open(append(append([]byte{16, 0, 0, 0}, sig...), sealed...)); err == nil {
		t.Fatal("a changed message is taken")
	}
}

func TestRefusals(t *testing.T) {
	bound := login()
	bound.Certificate, bound.RequireBinding = []byte("certificate"), true
	cases := map[string]struct {
		l          *Login
		user, pass string
		tamper     func([]byte) []byte
	}{
		"password":   {login(), "Ann", "wrong", nil},
		"user":       {login(), "Bob", "pässword", nil},
		"integrity":  {login(), "Ann", "pässword", func(b []byte) []byte { b = bytes.Clone(b); b[75] ^= 1; return b }},
		"flags":      {login(), "Ann", "pässword", func(b []byte) []byte { b = bytes.Clone(b); b[63] ^= 0x20; return b }},
		"truncated":  {login(), "Ann", "pässword", func(b []byte) []byte { return b[:70] }},
		"no binding": {bound, "Ann", "pässword", nil},
	}
	for name, k := range cases {
		if _, _, err := handshake(t, k.l, k.user, k.pass, nil, k.tamper); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := login().Challenge([]byte("NTLMSSP\x00\x03")); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, _, err := login().Authenticate(make([]byte, 100)); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add([]byte("NTLMSSP\x00\x01\x00\x00\x00"))
	f.Add([]byte{0x60, 0x10, 0x04, 0x09, 'N', 'T', 'L', 'M', 'S', 'S', 'P', 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if msg, _ := Unwrap(b); msg != nil && !bytes.HasPrefix(msg, signature) {
			t.Fatalf("%x", msg)
		}
		_, _ = login().Challenge(b)
		l := login()
		l.challenge = []byte{1}
		if _, _, err := l.Authenticate(b); err == nil {
			t.Fatal("garbage logs in")
		}
	})
}
