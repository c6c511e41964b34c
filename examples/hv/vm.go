package main

import (
	"fmt"
	"os"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type createCmd struct {
	Name    string   `arg:""`
	CPUs    int      `default:"1"`
	Memory  int64    `default:"512" help:"MiB."`
	Disk    []int64  `help:"Sizes of blank disks in MiB."`
	Image   string   `help:"Disk image to copy."`
	Network []string `help:"Networks, an adapter each."`
	UEFI    bool     `name:"uefi"`
	Host    string
	Store   string
	Start   bool
	Token   string            `help:"Makes the call repeatable."`
	Labels  map[string]string `short:"l"`
}

func (k *createCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	s := hypervisor.VMSpec{Name: k.Name, CPUs: k.CPUs, MemoryBytes: k.Memory * hypervisor.MiB, Start: k.Start, Token: k.Token, Labels: k.Labels,
		Placement: hypervisor.Placement{Host: h, Datastore: hypervisor.DatastoreID(k.Store)}}
	if k.UEFI {
		s.Firmware = hypervisor.UEFI
	}
	if k.Image != "" {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{Image: hypervisor.VolumeID(k.Image)})
	}
	for _, d := range k.Disk {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: d * hypervisor.MiB})
	}
	for _, n := range k.Network {
		s.NICs = append(s.NICs, hypervisor.NICSpec{Network: hypervisor.NetworkID(n)})
	}
	return a.made(a.c.CreateVM(a.ctx, s))
}

// made prints the ID of a new machine.
func (a *app) made(t *hypervisor.Task[*hypervisor.VM]) error {
	vm, err := done(a, t)
	if err == nil {
		fmt.Fprintln(a.out, "id:"+vm.ID())
	}
	return err
}

type deleteCmd struct {
	VM        string `arg:""`
	KeepDisks bool
	Force     bool `help:"Even if it runs."`
}

func (k *deleteCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	p := hypervisor.DeleteDisks
	if k.KeepDisks {
		p = hypervisor.KeepDisks
	}
	return only(a, vm.Delete(a.ctx, p, &hypervisor.DeleteOptions{Force: k.Force}))
}

type powerCmd struct {
	Op      string        `arg:"" enum:"start,shutdown,reboot,off,reset,pause,suspend,resume"`
	VM      string        `arg:""`
	Timeout time.Duration `default:"5m" help:"Of shutdown and reboot."`
	ThenOff bool          `help:"After the timeout of shutdown."`
}

func (k *powerCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	o := &hypervisor.ShutdownOptions{Timeout: k.Timeout, ThenOff: k.ThenOff}
	switch k.Op {
	case "shutdown":
		return only(a, vm.Shutdown(a.ctx, o))
	case "reboot":
		return only(a, vm.Reboot(a.ctx, o))
	}
	return only(a, map[string]func() *hypervisor.Task[hypervisor.None]{
		"start":   func() *hypervisor.Task[hypervisor.None] { return vm.Start(a.ctx) },
		"off":     func() *hypervisor.Task[hypervisor.None] { return vm.PowerOff(a.ctx) },
		"reset":   func() *hypervisor.Task[hypervisor.None] { return vm.Reset(a.ctx) },
		"pause":   func() *hypervisor.Task[hypervisor.None] { return vm.Pause(a.ctx) },
		"suspend": func() *hypervisor.Task[hypervisor.None] { return vm.Suspend(a.ctx) },
		"resume":  func() *hypervisor.Task[hypervisor.None] { return vm.Resume(a.ctx) },
	}[k.Op]())
}

type setCmd struct {
	VM        string `arg:""`
	CPUs      int
	Memory    int64 `help:"MiB."`
	Name      string
	NextStart bool              `help:"Let what can't be done live wait."`
	Labels    map[string]string `short:"l" help:"Replace all labels."`
}

func (k *setCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if k.Labels != nil {
		if err := vm.SetLabels(a.ctx, k.Labels); err != nil {
			return err
		}
	}
	ch := hypervisor.Changes{CPUs: k.CPUs, MemoryBytes: k.Memory * hypervisor.MiB, Name: k.Name, NextStart: k.NextStart}
	if ch == (hypervisor.Changes{NextStart: k.NextStart}) && k.Labels != nil {
		return nil
	}
	return only(a, vm.Reconfigure(a.ctx, ch))
}

type diskCmd struct {
	Op     string `arg:"" enum:"attach,grow,detach"`
	VM     string `arg:""`
	Disk   string `arg:"" optional:"" help:"ID of the disk, for grow and detach."`
	Size   int64  `help:"MiB."`
	Delete bool   `help:"Remove the image of a detached disk."`
}

func (k *diskCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	switch k.Op {
	case "attach":
		d, err := done(a, vm.AttachDisk(a.ctx, hypervisor.DiskSpec{SizeBytes: k.Size * hypervisor.MiB}))
		if err == nil {
			fmt.Fprintln(a.out, d.ID, d.Volume)
		}
		return err
	case "grow":
		return only(a, vm.GrowDisk(a.ctx, hypervisor.DiskID(k.Disk), k.Size*hypervisor.MiB))
	}
	p := hypervisor.KeepDisks
	if k.Delete {
		p = hypervisor.DeleteDisks
	}
	return only(a, vm.DetachDisk(a.ctx, hypervisor.DiskID(k.Disk), p))
}

type snapshotCmd struct {
	Op       string `arg:"" enum:"list,create,revert,delete"`
	VM       string `arg:""`
	Name     string `arg:"" optional:""`
	Memory   bool   `help:"Keep the RAM too."`
	Quiesce  bool   `help:"Freeze the guest's file systems."`
	Children bool   `help:"Delete the snapshots below too."`
}

func (k *snapshotCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	switch k.Op {
	case "list":
		all, err := vm.Snapshots(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, s := range all {
			mark := ""
			if s.Current {
				mark = "*"
			}
			rows = append(rows, []any{fmt.Sprintf("%*s%s", 2*s.Depth, "", s.Name) + mark, s.State, s.Memory, s.CreatedAt.Format(time.DateTime), "id:" + s.ID})
		}
		return a.print(all, "NAME STATE MEMORY MADE ID", rows)
	case "create":
		s, err := done(a, vm.CreateSnapshot(a.ctx, k.Name, &hypervisor.SnapshotOptions{Memory: k.Memory, Quiesce: k.Quiesce}))
		if err == nil {
			fmt.Fprintln(a.out, "id:"+s.ID())
		}
		return err
	}
	s, err := a.snapshot(vm, k.Name)
	if err != nil {
		return err
	}
	if k.Op == "revert" {
		return only(a, s.Revert(a.ctx, nil))
	}
	return only(a, s.Delete(a.ctx, &hypervisor.DeleteSnapshotOptions{Children: k.Children}))
}

type cloneCmd struct {
	Source   string `arg:"" help:"Machine, or template with --template."`
	Name     string `arg:""`
	Template bool
	Mode     string `enum:"full,linked,instant" default:"full"`
	From     string `help:"Snapshot of the source."`
	Start    bool
	Host     string
	Store    string
	Token    string `help:"Makes the call repeatable."`
}

func (k *cloneCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	o := &hypervisor.CloneOptions{Start: k.Start, Token: k.Token, Placement: hypervisor.Placement{Host: h, Datastore: hypervisor.DatastoreID(k.Store)},
		Mode: map[string]hypervisor.CloneMode{"full": hypervisor.FullClone, "linked": hypervisor.Linked, "instant": hypervisor.Instant}[k.Mode]}
	if k.Template {
		t, err := a.template(k.Source)
		if err != nil {
			return err
		}
		return a.made(t.Deploy(a.ctx, k.Name, o))
	}
	vm, err := a.vm(k.Source)
	if err != nil {
		return err
	}
	if k.From != "" {
		s, err := a.snapshot(vm, k.From)
		if err != nil {
			return err
		}
		o.From = s.ID()
	}
	return a.made(vm.Clone(a.ctx, k.Name, o))
}

type templateCmd struct {
	Op   string `arg:"" enum:"mark,unmark,delete"`
	Name string `arg:""`
}

func (k *templateCmd) Run(a *app) error {
	if k.Op == "mark" {
		vm, err := a.vm(k.Name)
		if err != nil {
			return err
		}
		return only(a, vm.MarkTemplate(a.ctx))
	}
	t, err := a.template(k.Name)
	if err != nil {
		return err
	}
	if k.Op == "unmark" {
		return only(a, t.MarkVM(a.ctx, hypervisor.Placement{}))
	}
	return only(a, t.Delete(a.ctx, hypervisor.DeleteDisks))
}

type migrateCmd struct {
	VM      string `arg:""`
	Host    string
	Store   string
	Cold    bool
	Check   bool  `help:"Only tell what stands in the way."`
	Limit   int64 `help:"Bandwidth in MiB/s."`
	Timeout time.Duration
}

func (k *migrateCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	o := hypervisor.MigrateOptions{Host: h, Storage: hypervisor.DatastoreID(k.Store), BandwidthBytes: k.Limit * hypervisor.MiB, Timeout: k.Timeout}
	if k.Cold {
		o.Mode = hypervisor.Cold
	}
	if k.Check {
		r, err := vm.CheckMigrate(a.ctx, o)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, b := range r.Blockers {
			rows = append(rows, []any{"blocker", b.Reason, b.Detail})
		}
		for _, b := range r.Warnings {
			rows = append(rows, []any{"warning", b.Reason, b.Detail})
		}
		return a.print(r, "WHAT REASON DETAIL", rows)
	}
	r, err := done(a, vm.Migrate(a.ctx, o))
	if err == nil {
		fmt.Fprintf(a.out, "on %s after %v, stood still for %v\n", r.Host, r.Total, r.Downtime)
	}
	return err
}

type evacuateCmd struct {
	Host     string `arg:""`
	Parallel int    `default:"2"`
}

func (k *evacuateCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	r, err := done(a, a.c.Host(h).Evacuate(a.ctx, &hypervisor.EvacuateOptions{Parallel: k.Parallel}))
	for _, m := range r.Moved {
		fmt.Fprintln(a.out, m.VM, "is on", m.Host)
	}
	return err
}

type deviceCmd struct {
	Op      string `arg:"" enum:"attach,detach"`
	VM      string `arg:""`
	ID      string `help:"Device to attach, or attachment to detach."`
	Vendor  string
	Product string
	Profile string `help:"vGPU profile."`
	VF      bool   `name:"vf" help:"An SR-IOV function."`
}

func (k *deviceCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if k.Op == "detach" {
		return only(a, vm.DetachDevice(a.ctx, hypervisor.AttachmentID(k.ID)))
	}
	d, err := done(a, vm.AttachDevice(a.ctx, hypervisor.DeviceRequest{ID: hypervisor.DeviceID(k.ID), Vendor: k.Vendor, Product: k.Product,
		Profile: k.Profile, VirtualFunction: k.VF}))
	if err == nil {
		fmt.Fprintln(a.out, d.ID, d.Device, d.Address)
	}
	return err
}

type guestCmd struct {
	Op   string   `arg:"" enum:"info,clock,sync,exec"`
	VM   string   `arg:""`
	Args []string `arg:"" optional:"" passthrough:""`
}

func (k *guestCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	switch k.Op {
	case "clock":
		r, err := vm.Clock(a.ctx)
		if err == nil {
			fmt.Fprintf(a.out, "%v ahead, give or take %v\n", r.Drift(), r.Uncertainty)
		}
		return err
	case "sync":
		return vm.SetClock(a.ctx, time.Time{})
	case "exec":
		if len(k.Args) == 0 {
			return fmt.Errorf("exec needs a program")
		}
		r, err := vm.Exec(a.ctx, hypervisor.ExecRequest{Path: k.Args[0], Args: k.Args[1:]})
		if err != nil {
			return err
		}
		_, _ = a.out.Write(r.Stdout)
		_, _ = os.Stderr.Write(r.Stderr)
		if r.ExitCode != 0 {
			return fmt.Errorf("the program ended with %d", r.ExitCode)
		}
		return nil
	}
	g, err := vm.Guest(a.ctx)
	if err != nil {
		return err
	}
	return a.print(g, "HOST OS TOOLS ADDRESSES", [][]any{{g.HostName, g.OS + " " + g.OSVersion, g.Tools, g.Addresses}})
}

type taskCmd struct {
	Op string `arg:"" enum:"wait,cancel"`
	ID string `arg:""`
}

func (k *taskCmd) Run(a *app) error {
	t, err := a.c.Task(a.ctx, hypervisor.TaskID(k.ID))
	if err != nil {
		return err
	}
	if k.Op == "cancel" {
		return t.Cancel(a.ctx)
	}
	r, err := done(a, t)
	if err == nil {
		fmt.Fprintln(a.out, r)
	}
	return err
}
