package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// setting is a part that Look finds in a machine's configuration.
func (o otherTool) setting(name string, find func(*types.VirtualMachineConfigInfo) (string, bool)) *hypervisortest.Part {
	return &hypervisortest.Part{Names: []string{name}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		return p, o.do(ctx, id, func(_ context.Context, _ *object.VirtualMachine, m *mo.VirtualMachine) error {
			var ok bool
			if p.Content, ok = find(m.Config); !ok {
				return fmt.Errorf("%s of machine %s: %w", name, id, hypervisor.ErrNotFound)
			}
			p.Where = string(id)
			return nil
		})
	}}
}

func (o otherTool) reconfigure(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec) error {
	return o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, _ *mo.VirtualMachine) error {
		t, err := vm.Reconfigure(ctx, spec)
		return wait(ctx, t, err)
	})
}

// serialPort is a device that this driver has no words for.
func (o otherTool) serialPort(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	const uri = "telnet://concentrator.example:4000"
	p := o.setting("serial port", func(c *types.VirtualMachineConfigInfo) (string, bool) {
		for _, x := range c.Hardware.Device {
			if s, ok := x.(*types.VirtualSerialPort); ok {
				if b, ok := s.Backing.(*types.VirtualSerialPortURIBackingInfo); ok {
					return b.ServiceURI, true
				}
			}
		}
		return "", false
	})
	return p, o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
		devs := object.VirtualDeviceList(m.Config.Hardware.Device)
		s, err := devs.CreateSerialPort()
		if err != nil {
			return err
		}
		return vm.AddDevice(ctx, devs.ConnectSerialPort(s, uri, false, ""))
	})
}

// metadata is what another tool wrote into the configuration.
func (o otherTool) metadata(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	const key = "backup.product.job"
	p := o.setting(key, func(c *types.VirtualMachineConfigInfo) (string, bool) {
		for _, x := range c.ExtraConfig {
			if v := x.GetOptionValue(); v.Key == key {
				return fmt.Sprint(v.Value), true
			}
		}
		return "", false
	})
	return p, o.reconfigure(ctx, id, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: key, Value: "nightly-7"}}})
}

// lateAdapter is an adapter that came after a snapshot.
func (o otherTool) lateAdapter(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	p := o.setting("adapter", func(c *types.VirtualMachineConfigInfo) (string, bool) {
		n := 0
		for _, x := range c.Hardware.Device {
			if _, ok := x.(types.BaseVirtualEthernetCard); ok {
				n++
			}
		}
		return fmt.Sprint(n), n > 1
	})
	return p, o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
		t, err := vm.CreateSnapshot(ctx, "backup", "", false, false)
		if err := wait(ctx, t, err); err != nil {
			return err
		}
		devs := object.VirtualDeviceList(m.Config.Hardware.Device)
		for _, x := range devs {
			if card, ok := x.(types.BaseVirtualEthernetCard); ok {
				n, err := devs.CreateEthernetCard("vmxnet3", card.GetVirtualEthernetCard().Backing)
				if err != nil {
					return err
				}
				return vm.AddDevice(ctx, n)
			}
		}
		return fmt.Errorf("machine %s has no adapter", id)
	})
}
