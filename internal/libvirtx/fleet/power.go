//go:build cgo

package fleet

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Power implements hypervisor.Powerer.
func (f *Fleet) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	return f.Simple(ctx, string(r.Op), id, ShortWork, func(ctx context.Context) error {
		if r.Op == hypervisor.PowerOpShutdown {
			return f.shutdown(ctx, id, r)
		}
		_, err := OnDomain(context.WithoutCancel(ctx), f, id, 4, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, f.power(c, dom, id, r)
		})
		return err
	})
}

// power brings a machine to the state that the operation leads to.
func (f *Fleet) power(c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, r hypervisor.PowerRequest) error {
	s, err := libvirtx.State(dom)
	if err != nil {
		return err
	}
	x, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	switch {
	case mark.Role != "":
		return hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
	case IsTemplate(x, mark) && r.Op != hypervisor.PowerOpOff:
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "this is a template: turn it into a machine with MarkVM, or deploy from it")
	}
	wrong := func(remedy string) error {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: %s", s, remedy)
	}
	switch r.Op {
	case hypervisor.PowerOpStart:
		switch s {
		case hypervisor.StateRunning:
			return nil
		case hypervisor.StateOff, hypervisor.StateSuspended: // libvirt restores a saved state by itself
			return libvirtx.Boot(c, dom, x)
		}
		return wrong("use Resume")
	case hypervisor.PowerOpResume:
		switch s {
		case hypervisor.StateRunning:
			return nil
		case hypervisor.StatePaused:
			return dom.Resume()
		case hypervisor.StateSuspended:
			return libvirtx.Boot(c, dom, x)
		}
		return wrong("use Start")
	case hypervisor.PowerOpOff:
		switch s {
		case hypervisor.StateOff:
			return nil
		case hypervisor.StateSuspended:
			return dom.ManagedSaveRemove(0)
		}
		return dom.Destroy()
	case hypervisor.PowerOpPause:
		switch s {
		case hypervisor.StatePaused:
			return nil
		case hypervisor.StateRunning:
			return dom.Suspend()
		}
		return wrong("only a running one can be paused")
	case hypervisor.PowerOpSuspend:
		switch s {
		case hypervisor.StateSuspended:
			return nil
		case hypervisor.StateRunning, hypervisor.StatePaused:
			if f.platform.Passthrough(x) {
				return hypervisor.Unsupported(id.Ref(), capability.PowerSuspend, hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved: detach it first")
			}
			return f.platform.Suspend(dom, id, s)
		}
		return wrong("only a running one can be suspended")
	case hypervisor.PowerOpReset:
		if s == hypervisor.StateRunning || s == hypervisor.StatePaused {
			return f.platform.Reset(c, dom, x)
		}
		return wrong("use Start")
	case hypervisor.PowerOpReboot:
		if s != hypervisor.StateRunning {
			return wrong("use Start or Resume")
		}
		return f.platform.Reboot(dom, x)
	}
	return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "unknown power operation %q", r.Op)
}

// shutdown asks the guest and waits for the end.
func (f *Fleet) shutdown(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) error {
	end := time.Now().Add(r.Timeout)
	done, err := OnDomain(ctx, f, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (bool, error) {
		s, err := libvirtx.State(dom)
		if err != nil || s == hypervisor.StateOff {
			return s == hypervisor.StateOff, err
		}
		x, mark, err := libvirtx.Parse(dom, 0)
		switch {
		case err != nil:
			return false, err
		case IsTemplate(x, mark):
			return false, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "this is a template, which never runs")
		case s != hypervisor.StateRunning:
			return false, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: its guest can't shut down; resume it first, or use PowerOff", s)
		}
		return false, f.platform.Shutdown(dom, x)
	})
	for err == nil && !done {
		done, err = OnDomain(ctx, f, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (bool, error) {
			s, err := libvirtx.State(dom)
			if err != nil || s == hypervisor.StateOff {
				return err == nil, err
			}
			if time.Now().Before(end) {
				return false, nil
			}
			if r.Force {
				return true, dom.Destroy()
			}
			return false, hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the guest did not shut down within %v and is still running", r.Timeout)
		})
		if err == nil && !done {
			err = Pause(ctx, PollEvery)
		}
	}
	return err
}
