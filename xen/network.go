package xen

import (
	"context"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// planNIC finds the network of an adapter: the named one, or the first with
// the host's management interface.
func (d *driver) planNIC(ctx context.Context, on hypervisor.Ref, n hypervisor.NICSpec) (xapi.Ref, error) {
	if n.Model != "" {
		return "", hypervisor.Unsupported(on, capability.NICAttach, hypervisor.ReasonPlatform,
			fmt.Sprintf("Model %q: Xen's machines have paravirtual adapters; leave Model out", n.Model))
	}
	if n.Network != "" {
		return d.byUUID(ctx, "network", string(n.Network))
	}
	var pifs map[xapi.Ref]pifRec
	if err := d.c.Call(ctx, &pifs, "PIF.get_all_records"); err != nil {
		return "", err
	}
	for _, p := range pifs {
		if p.Management {
			return p.Network, nil
		}
	}
	for _, p := range pifs {
		return p.Network, nil
	}
	return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the pool has no network with a host interface: name a network")
}

// virtualFunctions reports whether a network gives its adapters virtual
// functions of a card (class network_sriov). XAPI then passes a PCI function
// through, without listing it in attached_PCIs.
func virtualFunctions(pifs map[xapi.Ref]pifRec, network xapi.Ref) bool {
	for _, p := range pifs {
		if p.Network == network && len(p.SRIOVlog) > 0 {
			return true
		}
	}
	return false
}

// hotplug refuses to plug an adapter of an SR-IOV network, or to unplug it.
func (d *driver) hotplug(ctx context.Context, on hypervisor.Ref, network xapi.Ref) error {
	var pifs map[xapi.Ref]pifRec
	if err := d.c.Call(ctx, &pifs, "PIF.get_all_records"); err != nil {
		return err
	}
	if virtualFunctions(pifs, network) {
		return hypervisor.Unsupported(on, capability.NICHotplug, hypervisor.ReasonPlatform,
			"the network is one of virtual functions (SR-IOV), which XAPI gives and takes only while the machine is off")
	}
	return nil
}

func (j *poolJob) addNIC(ctx context.Context, vm, network xapi.Ref, mac, device string) (xapi.Ref, error) {
	other := map[string]string{}
	vif, err := j.make(ctx, "VIF", other, map[string]any{
		"device": device, "network": network, "VM": vm, "MAC": strings.ToLower(mac), "MTU": 1500, "other_config": other,
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{}, "locking_mode": "network_default", "ipv4_allowed": []string{}, "ipv6_allowed": []string{},
	})
	if err == nil {
		j.SetBack("the machine's adapters", func(ctx context.Context) error { return j.d.destroy(ctx, "VIF", vif) })
	}
	return vif, err
}

// AttachNIC adds a VIF on the first free device number, and plugs it into a
// running machine.
func (d *driver) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	if err := awake(on, st); err != nil {
		return nil, err
	}
	network, err := d.planNIC(ctx, on, n)
	if err == nil && st != hypervisor.StateOff {
		err = d.hotplug(ctx, on, network)
	}
	if err != nil {
		return nil, err
	}
	var free []string
	if err := d.c.Call(ctx, &free, "VM.get_allowed_VIF_devices", vm); err != nil {
		return nil, err
	}
	if len(free) == 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, on, "the machine has as many adapters as it can have")
	}
	return d.compose(ctx, "attach adapter", on, capability.NICAttach, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		vif, err := j.addNIC(ctx, vm, network, n.MAC, free[0])
		var plug error
		if err == nil && st != hypervisor.StateOff {
			if plug = d.c.Call(ctx, nil, "VIF.plug", vif); !xapi.Lost(plug) {
				err = plug
			}
		}
		var rec vifRec
		if err == nil {
			err = d.c.Call(ctx, &rec, "VIF.get_record", vif)
		}
		if err == nil && !rec.Attached {
			err = plug
		}
		return hypervisor.NICID(rec.UUID).Ref(), err
	})
}

// DetachNIC unplugs and destroys the VIF.
func (d *driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	ref, err := d.byUUID(ctx, "VIF", string(nic))
	var rec vifRec
	if err == nil {
		err = d.c.Call(ctx, &rec, "VIF.get_record", ref)
	}
	if err == nil && rec.VM != vm {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, nic.Ref(), "this adapter belongs to another machine")
	}
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if err := awake(on, state(v.PowerState)); err != nil {
		return nil, err
	}
	if rec.Attached && state(v.PowerState) != hypervisor.StateOff {
		if err := d.hotplug(ctx, on, rec.Network); err != nil {
			return nil, err
		}
	}
	return d.compose(ctx, "detach adapter", on, capability.NICAttach, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		if rec.Attached && state(v.PowerState) != hypervisor.StateOff {
			if err := d.c.Call(ctx, nil, "VIF.unplug", ref); err != nil {
				return on, err
			}
		}
		return on, d.destroy(ctx, "VIF", ref)
	})
}
