package tour

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// tour demonstrates the abilities, one step after the other. A step whose
// machine an earlier step could not make is skipped, and reported as such.
type tour struct {
	*show
	c            *hypervisor.Client
	prefix       string
	memory, disk int64
	made         []hypervisor.VMID // newest last

	vm, full, deployed *hypervisor.VM
	template           *hypervisor.Template
}

// errNotHere is for something that is missing on this platform without being
// an error of a call.
var errNotHere = errors.New("")

func notHere(format string, args ...any) error {
	return fmt.Errorf("%w%s", errNotHere, fmt.Sprintf(format, args...))
}

func (t *tour) all(ctx context.Context) {
	t.step("look around", func() (string, error) { return t.inventory(ctx) })
	t.step("make a machine", func() (string, error) { return t.create(ctx) })
	if t.vm == nil {
		return
	}
	t.step("snapshot its disks", func() (string, error) { return t.snapshot(ctx, "clean", false) })
	t.step("clone it, full", func() (s string, err error) {
		t.full, s, err = t.clone(ctx, t.vm, "full", hypervisor.CloneModeFull)
		return s, err
	})
	t.step("clone it, linked", func() (s string, err error) {
		_, s, err = t.clone(ctx, t.vm, "linked", hypervisor.CloneModeLinked)
		return s, err
	})
	t.step("make a template", func() (string, error) { return t.mark(ctx) })
	t.step("deploy from it", func() (string, error) { return t.deploy(ctx) })
	t.step("start the machine", func() (string, error) {
		if _, err := watch(ctx, t.show, t.vm.Start(ctx)); err != nil {
			return "", err
		}
		i, err := t.vm.Info(ctx)
		return fmt.Sprintf("%s on host %s", i.State, i.Host), err
	})
	t.step("snapshot with its memory", func() (string, error) { return t.snapshot(ctx, "running", true) })
	t.step("migrate live", func() (string, error) { return t.migrate(ctx) })
	t.step("power it off", func() (string, error) {
		_, err := watch(ctx, t.show, t.vm.PowerOff(ctx))
		return "off", err
	})
	t.step("attach a GPU", func() (string, error) { return t.gpu(ctx) })
}

func (t *tour) inventory(ctx context.Context) (string, error) {
	var hosts, threads, machines, gpus int
	for h, err := range t.c.Hosts(ctx) {
		if err != nil {
			return "", err
		}
		hosts, threads = hosts+1, threads+h.CPU.Threads
	}
	for _, err := range t.c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		if err != nil {
			return "", err
		}
		machines++
	}
	for _, err := range t.c.Devices(ctx, &hypervisor.DeviceFilter{Class: hypervisor.ClassDisplay}) {
		if errors.Is(err, hypervisor.ErrUnsupported) {
			break
		}
		if err != nil {
			return "", err
		}
		gpus++
	}
	return fmt.Sprintf("%d hosts, %d threads, %d machines, %d display devices", hosts, threads, machines, gpus), nil
}

func (t *tour) create(ctx context.Context) (string, error) {
	s := hypervisor.VMSpec{Name: t.prefix + "-vm", Description: "made by the tour of Anyvisor", CPUs: 1, MemoryBytes: t.memory,
		Disks: []hypervisor.DiskSpec{{SizeBytes: t.disk}}, Token: t.prefix + "-vm"}
	if l, err := t.c.Supports(ctx, capability.Labels, hypervisor.Ref{}); err == nil && l.Level != hypervisor.LevelNo {
		s.Labels = map[string]string{"made-by": "anyvisor-tour"}
	}
	vm, err := watch(ctx, t.show, t.c.CreateVM(ctx, s))
	if err != nil {
		t.leftover(err)
		return "", err
	}
	t.vm = vm
	t.made = append(t.made, vm.ID())
	return fmt.Sprintf("%s, ID %s", s.Name, vm.ID()), nil
}

// leftover registers machines that a failed call left for removal.
func (t *tour) leftover(err error) {
	var e *hypervisor.Error
	if !errors.As(err, &e) {
		return
	}
	for _, r := range e.Leftover {
		if r.Kind == hypervisor.ObjectVM {
			t.made = append(t.made, hypervisor.VMID(r.ID))
		} else {
			t.line("left behind: %s", r)
		}
	}
}

func (t *tour) snapshot(ctx context.Context, name string, memory bool) (string, error) {
	s, err := watch(ctx, t.show, t.vm.CreateSnapshot(ctx, name, &hypervisor.SnapshotOptions{Memory: memory}))
	if err != nil {
		return "", err
	}
	i, err := s.Info(ctx)
	return fmt.Sprintf("%q, ID %s", i.Name, i.ID), err
}

func (t *tour) clone(ctx context.Context, src *hypervisor.VM, part string, mode hypervisor.CloneMode) (*hypervisor.VM, string, error) {
	name := t.prefix + "-" + part
	vm, err := watch(ctx, t.show, src.Clone(ctx, name, &hypervisor.CloneOptions{Mode: mode, Token: name}))
	if err != nil {
		t.leftover(err)
		return nil, "", err
	}
	t.made = append(t.made, vm.ID())
	text, err := t.disks(ctx, vm)
	return vm, text, err
}

// disks shows the backing chain of a machine's first disk.
func (t *tour) disks(ctx context.Context, vm *hypervisor.VM) (string, error) {
	i, err := vm.Info(ctx)
	if err != nil || len(i.Disks) == 0 {
		return i.Name, err
	}
	if p := i.Disks[0].Parent; p != "" {
		return fmt.Sprintf("%s, its disk depends on %s", i.Name, p), nil
	}
	return fmt.Sprintf("%s, its disk is its own", i.Name), nil
}

func (t *tour) mark(ctx context.Context) (string, error) {
	if t.full == nil {
		return "", notHere("there is no full clone to make it of")
	}
	tpl, err := watch(ctx, t.show, t.full.MarkTemplate(ctx))
	if err != nil {
		return "", err
	}
	t.template = tpl
	t.made = append(slices.DeleteFunc(t.made, func(id hypervisor.VMID) bool { return id == t.full.ID() }), hypervisor.VMID(tpl.ID()))
	_, err = t.c.VM(hypervisor.VMID(tpl.ID())).Start(ctx).Wait(ctx)
	if !errors.Is(err, hypervisor.ErrInvalidState) {
		return "", fmt.Errorf("a template must not start: %w", err)
	}
	return fmt.Sprintf("ID %s; it refuses to start", tpl.ID()), nil
}

func (t *tour) deploy(ctx context.Context) (string, error) {
	if t.template == nil {
		return "", notHere("there is no template")
	}
	name := t.prefix + "-deployed"
	vm, err := watch(ctx, t.show, t.template.Deploy(ctx, name, &hypervisor.CloneOptions{Token: name}))
	if err != nil {
		t.leftover(err)
		return "", err
	}
	t.deployed = vm
	t.made = append(t.made, vm.ID())
	return t.disks(ctx, vm)
}

// migrate moves the deployed machine, which has no snapshots: some platforms
// don't move those. Disks that the other host doesn't reach move too.
func (t *tour) migrate(ctx context.Context) (string, error) {
	vm := t.deployed
	if vm == nil {
		vm = t.vm
	}
	s, err := vm.Supports(ctx, capability.MigrateLive)
	if err != nil {
		return "", err
	}
	if s.Level == hypervisor.LevelNo {
		return "", notHere("%s (%s)", s.Detail, s.Reason)
	}
	if _, err := watch(ctx, t.show, vm.Start(ctx)); err != nil {
		return "", err
	}
	i, err := vm.Info(ctx)
	if err != nil {
		return "", err
	}
	targets, err := t.targets(ctx, i.Host)
	if err != nil {
		return "", err
	}
	why := []string{"there is no other host"}
	for n, o := range targets {
		rep, err := vm.CheckMigrate(ctx, o)
		if err != nil {
			return "", err
		}
		if !rep.OK() {
			if n == 0 {
				why = nil
			}
			for _, b := range rep.Blockers {
				if text := fmt.Sprintf("%s (%s)", b.Detail, b.Reason); !slices.Contains(why, text) {
					why = append(why, text)
				}
			}
			continue
		}
		r, err := watch(ctx, t.show, vm.Migrate(ctx, o))
		if err != nil {
			return "", err
		}
		text := fmt.Sprintf("%s from %s to %s in %v", i.Name, i.Host, o.Host, r.Total.Round(time.Millisecond))
		if o.Storage != "" {
			text += ", with its disks"
		}
		if r.Downtime >= 0 {
			text += fmt.Sprintf(", it stood still for %v", r.Downtime.Round(time.Millisecond))
		}
		return text, nil
	}
	return "", notHere("%s", strings.Join(why, "; "))
}

// targets are the other hosts, first for the machine alone, then with its
// disks to a datastore of the other host.
func (t *tour) targets(ctx context.Context, from hypervisor.HostID) (out []hypervisor.MigrateOptions, err error) {
	stores, err := hypervisor.Collect(t.c.Datastores(ctx))
	if err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
		return nil, err
	}
	var along []hypervisor.MigrateOptions
	for h, err := range t.c.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		if h.ID == from || h.State != hypervisor.HostUp {
			continue
		}
		out = append(out, hypervisor.MigrateOptions{Host: h.ID, Mode: hypervisor.MigrateModeLive})
		for _, ds := range stores {
			if ds.Accessible && slices.Contains(ds.Hosts, h.ID) && !slices.Contains(ds.Hosts, from) {
				along = append(along, hypervisor.MigrateOptions{Host: h.ID, Storage: ds.ID, Mode: hypervisor.MigrateModeLive})
			}
		}
	}
	return append(out, along...), nil
}

func (t *tour) gpu(ctx context.Context) (string, error) {
	var why []string
	for d, err := range t.c.Devices(ctx, &hypervisor.DeviceFilter{Class: hypervisor.ClassDisplay}) {
		if err != nil {
			return "", err
		}
		if !d.Assignable {
			if text := fmt.Sprintf("%s: %s (%s)", d.ProductName, d.Detail, d.Reason); !slices.Contains(why, text) {
				why = append(why, text)
			}
			continue
		}
		task := t.vm.AttachDevice(ctx, hypervisor.DeviceRequest{ID: d.ID})
		a, err := watch(ctx, t.show, task)
		if err != nil {
			return "", err
		}
		text := fmt.Sprintf("%s at %s", d.ProductName, d.Address)
		if n := task.Notes(); len(n) > 0 {
			text += "; " + strings.Join(n, "; ")
		}
		_, err = watch(ctx, t.show, t.vm.DetachDevice(ctx, a.ID))
		return text + "; and detached again", err
	}
	if len(why) == 0 {
		s, err := t.c.Supports(ctx, capability.DevicePCI, hypervisor.Ref{})
		if err != nil || s.Level == hypervisor.LevelYes {
			return "", first(err, notHere("no host has a display device"))
		}
		why = append(why, fmt.Sprintf("%s (%s)", s.Detail, s.Reason))
	}
	return "", notHere("%s", strings.Join(why, "; "))
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// cleanup removes what the tour made, and nothing else, clones before their
// bases.
func (t *tour) cleanup(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	t.step("clean up", func() (string, error) {
		n := 0
		var failed []error
		for _, id := range slices.Backward(t.made) {
			_, err := watch(ctx, t.show, t.c.VM(id).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
			if err != nil {
				failed = append(failed, err)
			} else {
				n++
			}
		}
		return fmt.Sprintf("%d machines removed, with their disks", n), errors.Join(failed...)
	})
}
