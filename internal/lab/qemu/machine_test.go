package qemu

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func needQEMU(t *testing.T) {
	for _, p := range []string{"setpriv", "qemu-system-x86_64"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

func TestMachine(t *testing.T) {
	needQEMU(t)
	m, err := Start("m", t.TempDir(), "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ended(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	notYet := errors.New("not yet")
	err = m.Wait(ctx, "waiting in vain", func(context.Context) error { cancel(); return notYet })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, notYet) {
		t.Errorf("cancelled wait: %v", err)
	}
	m.Stop()
	if m.Ended() == nil {
		t.Error("runs on after Stop")
	}
}

func TestMachineThatFails(t *testing.T) {
	needQEMU(t)
	m, err := Start("m", t.TempDir(), "-device", "no-such-device")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop()
	err = m.Wait(t.Context(), "waiting", func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("QEMU's own words are missing: %v", err)
	}
}
