package com

import (
	"errors"
	"sync"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	refusals "github.com/anyvisor/anyvisor/internal/session"
)

// TestRefusedLoginIsRemembered: many calls at once send a wrong password once.
// What is not about the password is tried again.
func TestRefusedLoginIsRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		user    string
		hresult uint32
		want    int
	}{
		"wrong password":         {`CORP\ann`, 0x80070005, 1},
		"logon failure":          {`CORP\ann`, 0x8007052E, 1},
		"another namespace":      {`CORP\ann`, 0x80041003, 64},
		"no server":              {`CORP\ann`, 0x800706BA, 64},
		"the process's own user": {"", 0x80070005, 64},
	} {
		cfg := Config{Server: "hv01", User: c.user, Password: "wrong", Refusals: refusals.NewRefusals(false)}
		refused, sent := &cim.Error{Op: "connect", HResult: c.hresult}, 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				err := cfg.login(func() error {
					mu.Lock()
					defer mu.Unlock()
					sent++
					return refused
				})
				if !errors.Is(err, refused) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if sent != c.want {
			t.Errorf("%s: the password was sent %d times, want %d", name, sent, c.want)
		}
	}
}
