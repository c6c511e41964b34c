package wsman_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// minimum are the flags that a CHALLENGE must have (MS-NLMP 2.2.2.5).
var minimum = map[string]uint32{"UNICODE": 1, "SIGN": 0x10, "SEAL": 0x20, "EXTENDED_SESSIONSECURITY": 0x80000, "TARGET_INFO": 0x800000, "128": 0x20000000, "KEY_EXCH": 0x40000000}

// weak checks the error of a login that was refused for want of flags.
func weak(t *testing.T, s *wsman.Client, password hypervisor.Secret, lost []string) {
	t.Helper()
	got, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
	var login *wsman.LoginError
	var weak *wsman.WeakError
	if !errors.As(err, &login) || !errors.As(err, &weak) || len(got) > 0 || login.Host != "127.0.0.1" || !strings.Contains(err.Error(), "thumbprint") {
		t.Errorf("without %v: %d rows, %v", lost, len(got), err)
		return
	}
	if len(weak.Missing) != len(lost) || strings.Contains(err.Error(), string(password)) {
		t.Errorf("without %v: %v", lost, err)
	}
}

// TestWeakNTLM: a host that lacks one flag of the minimum, or all, is refused
// before the password is used, on HTTP and on HTTPS.
func TestWeakNTLM(t *testing.T) {
	sets := map[string]uint32{}
	for n, f := range minimum {
		sets[n] = f
		sets["all"] |= f
	}
	for n, without := range sets {
		lost := []string{n}
		if n == "all" {
			lost = slices.Collect(maps.Keys(minimum))
		}
		sim := start(t, hvsim.Config{NTLMWithout: without})
		for _, c := range []wsman.Config{config(t, sim, sim.Host(0).HTTPURL()), config(t, sim, sim.Host(0).URL())} {
			weak(t, dial(t, c), c.Password, lost)
		}
		if calls := sim.Calls(); len(calls) > 0 { // neither AUTHENTICATE nor a request
			t.Errorf("without %v: %v", lost, calls)
		}
	}
}

// impostor answers each login with a CHALLENGE, over HTTP and over HTTPS.
type impostor struct {
	challenge atomic.Pointer[[]byte]
	// more is set once something else than NEGOTIATE has come.
	more  atomic.Bool
	sites [2]*httptest.Server
}

func newImpostor(t *testing.T) *impostor {
	i := &impostor{}
	i.sites = [2]*httptest.Server{httptest.NewServer(i), httptest.NewTLSServer(i)}
	for _, s := range i.sites {
		t.Cleanup(s.Close)
	}
	return i
}

func (i *impostor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tok, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Negotiate "))
	if err != nil || len(tok) < 9 || tok[8] != 1 || r.ContentLength != 0 {
		i.more.Store(true)
	}
	w.Header().Set("WWW-Authenticate", "Negotiate "+base64.StdEncoding.EncodeToString(*i.challenge.Load()))
	w.WriteHeader(http.StatusUnauthorized)
}

// meet gives each site's Client, which is closed afterwards.
func (i *impostor) meet(t *testing.T, challenge []byte, f func(*wsman.Client)) {
	t.Helper()
	i.challenge.Store(&challenge)
	for _, site := range i.sites {
		c := config(t, nil, site.URL)
		if site.TLS != nil {
			c.TLS = trust(site)
		}
		s := dial(t, c)
		f(s)
		s.Close()
	}
	if i.more.Swap(false) {
		t.Error("the impostor got more than a NEGOTIATE")
	}
}

// message is a CHALLENGE.
func message(flags uint32, info []byte, n uint16, at uint32) []byte {
	m := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0)
	m = binary.LittleEndian.AppendUint32(m, flags)
	m = append(m, make([]byte, 16)...)
	m = binary.LittleEndian.AppendUint16(m, n)
	m = binary.LittleEndian.AppendUint16(m, n)
	m = binary.LittleEndian.AppendUint32(m, at)
	return append(append(m, make([]byte, 8)...), info...)
}

func pair(id, n uint16, v ...byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, id)
	return append(binary.LittleEndian.AppendUint16(b, n), v...)
}

// TestImpostorNTLM: every set of flags below the minimum.
func TestImpostorNTLM(t *testing.T) {
	imp := newImpostor(t)
	info := append(pair(1, 2, 'h', 0), pair(0, 0)...)
	names := slices.Collect(maps.Keys(minimum))
	for set := 1; set < 1<<len(names); set++ {
		flags, lost := uint32(0x200), []string(nil)
		for i, n := range names {
			if set&(1<<i) == 0 {
				flags |= minimum[n]
			} else {
				lost = append(lost, n)
			}
		}
		imp.meet(t, message(flags, info, uint16(len(info)), 56), func(s *wsman.Client) { weak(t, s, guess, lost) })
	}
}

// TestHostileNTLM: an impostor's CHALLENGE may hold anything.
func TestHostileNTLM(t *testing.T) {
	imp := newImpostor(t)
	flags := uint32(0x200)
	for _, f := range minimum {
		flags |= f
	}
	end := pair(0, 0)
	challenge := func(info ...[]byte) []byte {
		all := slices.Concat(info...)
		return message(flags, all, uint16(len(all)), 56)
	}
	good := challenge(pair(1, 2, 'h', 0), end)
	name := bytes.Clone(good)
	name[12], name[14], name[20] = 3, 3, name[20]|4 // a name of an odd length
	for what, m := range map[string][]byte{
		"flags of one byte": challenge(pair(6, 1, 2), end), "a time of two bytes": challenge(pair(7, 2, 0, 0), end), "no pair": challenge(end), "nothing": challenge(),
		"a pair cut off": challenge(pair(1, 9, 'h')), "no end": challenge(pair(1, 2, 'h', 0)), "beyond the end": message(flags, end, 60000, 56), "far away": message(flags, end, 4, 1<<31),
		"short": good[:40], "another message": append([]byte("NTLMSSP\x00\x03"), good[9:]...), "a pair twice": challenge(pair(6, 4, 2, 0, 0, 0), pair(6, 1, 2), end), "an odd name": name,
	} {
		imp.meet(t, m, func(s *wsman.Client) {
			_, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
			var weak *wsman.WeakError
			if !errors.As(err, &weak) || weak.Err == nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
}
