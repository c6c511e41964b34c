//go:build cgo

package fleet

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
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

// power brings a machine to where the operation leads.
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
		return hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine")
	case IsTemplate(x, mark) && r.Op != hypervisor.PowerOpOff:
		return hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "this is a template: turn it into a machine with MarkVM, or deploy from it")
	}
	wrong := func(remedy string) error {
		return hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: %s", s, remedy)
	}
	switch r.Op {
	case hypervisor.PowerOpStart:
		switch s {
		case hypervisor.Running:
			return nil
		case hypervisor.Off, hypervisor.Suspended: // libvirt restores a saved state by itself
			return libvirtx.Boot(c, dom, x)
		}
		return wrong("use Resume")
	case hypervisor.PowerOpResume:
		switch s {
		case hypervisor.Running:
			return nil
		case hypervisor.Paused:
			return dom.Resume()
		case hypervisor.Suspended:
			return libvirtx.Boot(c, dom, x)
		}
		return wrong("use Start")
	case hypervisor.PowerOpOff:
		switch s {
		case hypervisor.Off:
			return nil
		case hypervisor.Suspended:
			return dom.ManagedSaveRemove(0)
		}
		return dom.Destroy()
	case hypervisor.PowerOpPause:
		switch s {
		case hypervisor.Paused:
			return nil
		case hypervisor.Running:
			return dom.Suspend()
		}
		return wrong("only a running one can be paused")
	case hypervisor.PowerOpSuspend:
		switch s {
		case hypervisor.Suspended:
			return nil
		case hypervisor.Running, hypervisor.Paused:
			if f.platform.Passthrough(x) {
				return hypervisor.Unsupported(id.Ref(), hypervisor.PowerSuspend, hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved: detach it first")
			}
			return f.platform.Suspend(dom, id, s)
		}
		return wrong("only a running one can be suspended")
	case hypervisor.PowerOpReset:
		if s == hypervisor.Running || s == hypervisor.Paused {
			return f.platform.Reset(c, dom, x)
		}
		return wrong("use Start")
	case hypervisor.PowerOpReboot:
		if s != hypervisor.Running {
			return wrong("use Start or Resume")
		}
		return f.platform.Reboot(dom, x)
	}
	return hypervisor.Errorf(hypervisor.KindInvalidArgument, id.Ref(), "unknown power operation %q", r.Op)
}

// shutdown asks the guest and waits for the end.
func (f *Fleet) shutdown(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) error {
	end := time.Now().Add(r.Timeout)
	done, err := OnDomain(ctx, f, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (bool, error) {
		s, err := libvirtx.State(dom)
		if err != nil || s == hypervisor.Off {
			return s == hypervisor.Off, err
		}
		x, mark, err := libvirtx.Parse(dom, 0)
		switch {
		case err != nil:
			return false, err
		case IsTemplate(x, mark):
			return false, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "this is a template, which never runs")
		case s != hypervisor.Running:
			return false, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: its guest can't shut down; resume it first, or use PowerOff", s)
		}
		return false, f.platform.Shutdown(dom, x)
	})
	for err == nil && !done {
		done, err = OnDomain(ctx, f, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (bool, error) {
			s, err := libvirtx.State(dom)
			if err != nil || s == hypervisor.Off {
				return err == nil, err
			}
			if time.Now().Before(end) {
				return false, nil
			}
			if r.Force {
				return true, dom.Destroy()
			}
			return false, hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the guest did not shut down within %v and goes on running", r.Timeout)
		})
		if err == nil && !done {
			err = Pause(ctx, PollEvery)
		}
	}
	return err
}
