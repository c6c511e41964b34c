//go:build cgo

package libvirtx

import (
	"context"
	"errors"
	"testing"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func TestKinds(t *testing.T) {
	for _, c := range []struct {
		e    libvirt.Error
		want hypervisor.Kind
		lost bool
	}{
		{libvirt.Error{Code: libvirt.ERR_NO_DOMAIN, Message: "Domain not found"}, hypervisor.ErrNotFound, false},
		{libvirt.Error{Code: libvirt.ERR_OPERATION_FAILED, Message: "operation failed: domain 'vm1' already exists with uuid x"}, hypervisor.ErrExists, false},
		{libvirt.Error{Code: libvirt.ERR_OPERATION_TIMEOUT, Message: "Timed out during operation: cannot acquire state change lock"}, hypervisor.ErrBusy, false},
		{libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Domain: libvirt.FROM_RPC, Message: "internal error: client socket is closed"}, hypervisor.ErrUnavailable, true},
		{libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_RPC, Message: "Cannot recv data: Connection reset by peer"}, hypervisor.ErrUnavailable, true},
		{libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: qemu unexpectedly closed the monitor"}, hypervisor.ErrUnavailable, false},
		{libvirt.Error{Code: libvirt.ERR_OPERATION_ABORTED, Message: "operation aborted: job 'migration out' canceled by client"}, hypervisor.ErrCanceled, false},
		{libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "qemu-img: write: No space left on device"}, hypervisor.ErrExhausted, false},
		{libvirt.Error{Code: libvirt.ERR_OPERATION_INVALID, Message: "Requested operation is not valid: domain is not running"}, hypervisor.ErrInvalidState, false},
		{libvirt.Error{Code: libvirt.ERR_AUTH_FAILED}, hypervisor.ErrUnauthenticated, false},
		{libvirt.Error{Code: libvirt.ERR_NO_SUPPORT}, hypervisor.ErrUnsupported, false},
	} {
		if k := Kind(c.e); k != c.want || Lost(c.e) != c.lost {
			t.Errorf("%s (code %d) is %s, lost %v; want %s, %v", c.e.Message, c.e.Code, k, Lost(c.e), c.want, c.lost)
		}
	}
	if Kind(errors.New("x")) != hypervisor.ErrUnknown || Kind(nil) != hypervisor.ErrUnknown {
		t.Error("an error of another kind is in a class")
	}
}

func TestConn(t *testing.T) {
	ctx := context.Background()
	h, err := NewConn("test:///default", nil)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := Do(ctx, h, 1, func(c *libvirt.Connect) ([]Stat, error) { return Stats(c, "", false) })
	if err != nil || len(stats) != 1 || stats[0].Name != "test" || stats[0].State != int(libvirt.DOMAIN_RUNNING) {
		t.Errorf("statistics %+v, %v", stats, err)
	}
	one, err := Do(ctx, h, 1, func(c *libvirt.Connect) ([]Stat, error) { return Stats(c, stats[0].UUID, true) })
	if err != nil || len(one) != 1 || one[0].UUID != stats[0].UUID {
		t.Errorf("statistics of one: %+v, %v", one, err)
	}
	_, err = Do(ctx, h, 1, func(c *libvirt.Connect) ([]Stat, error) { return Stats(c, NewUUID(), true) })
	if !NotFound(err) {
		t.Errorf("statistics of none: %v", err)
	}
	// A call that hangs does not hold the caller.
	short, stop := context.WithCancel(ctx)
	hold, entered := make(chan struct{}), make(chan struct{})
	ended := make(chan error)
	go func() {
		_, err := Do(short, h, 1, func(*libvirt.Connect) (int, error) { close(entered); <-hold; return 0, nil })
		ended <- err
	}()
	<-entered
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Do with an ended context: %v", err)
	}
	close(hold)
	// A connection that broke is replaced.
	before, lost := h.Epoch()
	_, err = Do(ctx, h, 1, func(*libvirt.Connect) (int, error) { return 0, libvirt.Error{Code: libvirt.ERR_INVALID_CONN} })
	if Kind(err) != hypervisor.ErrUnavailable {
		t.Errorf("a broken connection: %v", err)
	}
	<-lost
	if _, err = Do(ctx, h, 1, func(c *libvirt.Connect) (string, error) { return c.GetHostname() }); err != nil {
		t.Error(err)
	}
	if after, _ := h.Epoch(); after != before+1 {
		t.Errorf("connection %d after %d", after, before)
	}
	events := make(chan RawEvent, 100)
	unsubscribe, _, err := Subscribe(ctx, h, func(e RawEvent) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Do(ctx, h, 1, func(c *libvirt.Connect) (int, error) {
		d, err := c.LookupDomainByName("test")
		if err != nil {
			return 0, err
		}
		defer d.Free()
		return 0, d.Suspend()
	}); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Name != "test" || e.Kind != Lifecycle || e.Event != int(libvirt.DOMAIN_EVENT_SUSPENDED) {
		t.Errorf("event %+v", e)
	}
	unsubscribe()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err = Do(ctx, h, 1, func(*libvirt.Connect) (int, error) { return 0, nil }); hypervisor.KindOf(err) != hypervisor.ErrClosed {
		t.Errorf("Do after Close: %v", err)
	}
}
