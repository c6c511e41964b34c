package main

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type capsCmd struct {
	VM   string `help:"Ask for a machine."`
	Host string `help:"Ask for a host."`
}

func (k *capsCmd) Run(a *app) error {
	var scope hypervisor.Ref
	if k.VM != "" {
		vm, err := a.vm(k.VM)
		if err != nil {
			return err
		}
		scope = vm.ID().Ref()
	} else if k.Host != "" {
		h, err := a.host(k.Host)
		if err != nil {
			return err
		}
		scope = h.Ref()
	}
	all := map[capability.Name]hypervisor.Support{}
	var rows [][]any
	for _, c := range capability.All() {
		s, err := a.c.Supports(a.ctx, c, scope)
		if err != nil {
			return err
		}
		all[c] = s
		rows = append(rows, []any{c, s.Level, s.Reason, s.Detail})
	}
	return a.print(all, "CAPABILITY LEVEL REASON DETAIL", rows)
}

type hostsCmd struct{}

func (*hostsCmd) Run(a *app) error {
	all, err := hypervisor.Collect(a.c.Hosts(a.ctx))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, h := range all {
		rows = append(rows, []any{h.Name, h.State, h.Product + " " + h.Version, h.CPU.Model, h.CPU.Threads, mib(h.FreeBytes), mib(h.MemoryBytes), h.Running, "id:" + h.ID})
	}
	return a.print(all, "NAME STATE VERSION CPU THREADS FREE MEMORY RUNNING ID", rows)
}

type vmsCmd struct {
	Host   string            `help:"On this host only."`
	Labels map[string]string `short:"l" help:"With these labels only."`
}

func (k *vmsCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	o := &hypervisor.ListOptions{Host: h, Labels: k.Labels}
	if len(k.Labels) == 0 && a.Output == "table" {
		o.Detail = hypervisor.DetailBrief
	}
	all, err := hypervisor.Collect(a.c.VMs(a.ctx, o))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, v := range all {
		rows = append(rows, []any{v.Name, v.State, v.Host, v.CPUs, mib(v.MemoryBytes), "id:" + v.ID})
	}
	return a.print(all, "NAME STATE HOST CPUS MEMORY ID", rows)
}

type templatesCmd struct{}

func (*templatesCmd) Run(a *app) error {
	all, err := hypervisor.Collect(a.c.Templates(a.ctx))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, t := range all {
		rows = append(rows, []any{t.Name, t.CPUs, mib(t.MemoryBytes), len(t.Disks), "id:" + t.ID})
	}
	return a.print(all, "NAME CPUS MEMORY DISKS ID", rows)
}

type storesCmd struct{}

func (*storesCmd) Run(a *app) error {
	all, err := hypervisor.Collect(a.c.Datastores(a.ctx))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, d := range all {
		rows = append(rows, []any{d.Name, d.Type, mib(d.FreeBytes), mib(d.CapacityBytes), len(d.Hosts), "id:" + d.ID})
	}
	return a.print(all, "NAME TYPE FREE CAPACITY HOSTS ID", rows)
}

type networksCmd struct{}

func (*networksCmd) Run(a *app) error {
	all, err := hypervisor.Collect(a.c.Networks(a.ctx))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, n := range all {
		rows = append(rows, []any{n.Name, n.Type, n.VLAN, "id:" + n.ID})
	}
	return a.print(all, "NAME TYPE VLAN ID", rows)
}

type devicesCmd struct {
	Class string `help:"display, network, storage, accelerator or other."`
	Free  bool   `help:"Only those that can be assigned now."`
}

func (k *devicesCmd) Run(a *app) error {
	all, err := hypervisor.Collect(a.c.Devices(a.ctx, &hypervisor.DeviceFilter{Class: hypervisor.DeviceClass(k.Class), Assignable: k.Free}))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, d := range all {
		state := "free"
		if !d.Assignable {
			state = string(d.Reason)
		}
		rows = append(rows, []any{d.Address, d.Vendor + ":" + d.Product, d.Kind, d.Class, d.ProductName, d.IOMMUGroup, state, len(d.Profiles), "id:" + d.ID})
	}
	return a.print(all, "ADDRESS DEVICE KIND CLASS NAME GROUP STATE PROFILES ID", rows)
}

type watchCmd struct {
	Token string `help:"Resume after this event."`
}

func (k *watchCmd) Run(a *app) error {
	for e, err := range a.c.Watch(a.ctx, k.Token) {
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, e.Time.Format("15:04:05.000"), e.Type, e.Object, e.State, e.Token)
	}
	return nil
}

type infoCmd struct {
	VM string `arg:"" help:"Machine."`
}

func (k *infoCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	i, err := vm.Info(a.ctx)
	if err != nil {
		return err
	}
	return a.document(i)
}
