package hypervisor_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

func TestErrorUnwrapsToItsClassAndItsCause(t *testing.T) {
	sentinels := []error{hypervisor.ErrNotFound, hypervisor.ErrExists, hypervisor.ErrAmbiguous, hypervisor.ErrInvalidArgument, hypervisor.ErrInvalidState,
		hypervisor.ErrUnsupported, hypervisor.ErrBusy, hypervisor.ErrIncompatible, hypervisor.ErrUnauthenticated, hypervisor.ErrPermission,
		hypervisor.ErrExhausted, hypervisor.ErrLicense, hypervisor.ErrUnavailable, hypervisor.ErrCanceled, hypervisor.ErrTimeout, hypervisor.ErrClosed}
	for i, s := range sentinels {
		k := hypervisor.Kind(i + 1)
		err := fmt.Errorf("outer: %w", &hypervisor.Error{Op: "vm.start", Object: hypervisor.VMID("7").Ref(), Kind: k, Err: io.ErrUnexpectedEOF})
		if !errors.Is(err, s) || !errors.Is(err, io.ErrUnexpectedEOF) || hypervisor.KindOf(err) != k {
			t.Errorf("kind %s: %v is not %v and its cause", k, err, s)
		}
		for j, o := range sentinels {
			if j != i && errors.Is(err, o) {
				t.Errorf("kind %s is %v too", k, o)
			}
		}
		if k.String() == "unknown" || strings.Contains(k.String(), " ") {
			t.Errorf("kind %d is called %q", k, k)
		}
		if !strings.Contains(err.Error(), "vm.start vm 7") {
			t.Errorf("the text is %q, want operation and object", err)
		}
	}
	if s := (&hypervisor.Error{Kind: hypervisor.ErrBusy, Leftover: []hypervisor.Ref{{Kind: hypervisor.ObjectVolume, ID: "v", Name: "half"}}}).Error(); s != `busy (left behind: volume v ("half"))` {
		t.Errorf("the text is %q", s)
	}
}

func TestUnsupported(t *testing.T) {
	err := hypervisor.Unsupported(hypervisor.VMID("7").Ref(), capability.DeviceVGPU, hypervisor.ReasonEdition, "needs Enterprise Plus")
	if !errors.Is(err, hypervisor.ErrLicense) || !errors.Is(err, hypervisor.ErrUnsupported) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v is not ErrLicense and ErrUnsupported", err)
	}
	if !err.Retryable() {
		t.Error("refused before anything was touched, and yet not safe to send again")
	}
	if !strings.Contains(err.Error(), "device.vgpu") || !strings.Contains(err.Error(), "Enterprise Plus") {
		t.Errorf("the text is %q", err)
	}
}

func TestPCIClasses(t *testing.T) {
	for code, want := range map[uint32]hypervisor.DeviceClass{0x030000: hypervisor.ClassDisplay, 0x038000: hypervisor.ClassDisplay, 0x020000: hypervisor.ClassNetwork,
		0x010802: hypervisor.ClassStorage, 0x120000: hypervisor.ClassAccelerator, 0x060400: hypervisor.ClassOther} {
		if got := hypervisor.ClassOfPCI(code); got != want {
			t.Errorf("class code %06x is %s, want %s", code, got, want)
		}
	}
}
