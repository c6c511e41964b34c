//go:build cgo

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// blockersTest puts one thing after the other in a machine's way.
type blockersTest struct {
	*testing.T
	ctx    context.Context
	l      *kvmlab.Lab
	c      *hypervisor.Client
	vm     *hypervisor.VM
	from   *kvmlab.Host
	to     *kvmlab.Host
	local  hypervisor.DatastoreID // of to
	shared hypervisor.DatastoreID
}

// TestCheckMigrate shows every blocker, each with a machine that had none
// before, and that nothing is changed by asking.
func TestCheckMigrate(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := &blockersTest{T: t, ctx: ctx, l: l, c: c, from: l.Hosts[0], to: l.Hosts[1], local: poolUUID(t, l.Hosts[1], "default"), shared: poolUUID(t, l.Hosts[0], "shared")}
	s := spec(l, b.shared)("blocked")
	s.Placement.Host = hypervisor.HostID(b.from.UUID)
	if b.vm, err = c.CreateVM(ctx, s).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	b.off()
	b.storage()
	b.host()
	b.running()
	b.memory()
	if _, err := b.vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
		t.Error(err)
	}
}

// check demands that a machine is free to go, that it is blocked for these
// reasons and no other after what do does, and that it is free again after
// what it returns.
func (b *blockersTest) check(what string, o hypervisor.MigrateOptions, do func() (undo func()), want ...hypervisor.ReasonCode) {
	b.Helper()
	if o.Host == "" {
		o.Host = hypervisor.HostID(b.to.UUID)
	}
	report := func() []hypervisor.Blocker {
		b.Helper()
		rep, err := b.vm.CheckMigrate(b.ctx, o)
		if err != nil {
			b.Fatalf("%s: %v", what, err)
		}
		return rep.Blockers
	}
	if all := report(); len(all) > 0 {
		b.Fatalf("before %s there are blockers: %+v", what, all)
	}
	undo := do()
	var got []hypervisor.ReasonCode
	for _, k := range report() {
		got = append(got, k.Reason)
		if k.Detail == "" || k.Object.ID == "" && k.Object.Name == "" {
			b.Errorf("%s: a blocker names no object or no remedy: %+v", what, k)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Errorf("%s: blocked by %q, want %q", what, got, want)
	}
	undo()
	if all := report(); len(all) > 0 {
		b.Fatalf("after %s was undone there are blockers: %+v", what, all)
	}
}

func (b *blockersTest) virsh(h *kvmlab.Host, args ...string) string {
	b.Helper()
	out, err := h.Virsh(b.ctx, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// must waits for a task.
func must[T any](b *blockersTest, t *hypervisor.Task[T]) T {
	b.Helper()
	v, err := t.Wait(b.ctx)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// define changes the machine's definition and returns what takes the change
// back.
func (b *blockersTest) define(change func(x *libvirtxml.Domain)) func() {
	b.Helper()
	before := b.virsh(b.from, "dumpxml", "--inactive", "--security-info", string(b.vm.ID()))
	var x libvirtxml.Domain
	if err := x.Unmarshal(before); err != nil {
		b.Fatal(err)
	}
	change(&x)
	after, err := x.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.virsh(b.from, "define", b.l.WriteXML(after))
	return func() { b.virsh(b.from, "define", b.l.WriteXML(before)) }
}

// pool defines a pool on a folder.
func (b *blockersTest) pool(h *kvmlab.Host, name, uuid, dir string) {
	b.Helper()
	b.virsh(h, "pool-define", b.l.WriteXML("<pool type='dir'><name>"+name+"</name><uuid>"+uuid+"</uuid><target><path>"+dir+"</path></target></pool>"))
}

// off is what can be in the way of a machine that is off.
func (b *blockersTest) off() {
	id := string(b.vm.ID())
	b.check("a live migration asked for", hypervisor.MigrateOptions{}, func() func() {
		rep, err := b.vm.CheckMigrate(b.ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(b.to.UUID), Mode: hypervisor.MigrateModeLive})
		if err != nil || !blocks(rep, hypervisor.ReasonVMState) {
			b.Errorf("a live migration of a machine that is off: %+v %v", rep, err)
		}
		return func() {}
	})
	b.check("a snapshot", hypervisor.MigrateOptions{}, func() func() {
		s := must(b, b.vm.CreateSnapshot(b.ctx, "in-the-way", nil))
		return func() { must(b, s.Delete(b.ctx, nil)) }
	}, hypervisor.ReasonVMSnapshots)
	b.check("a template", hypervisor.MigrateOptions{}, func() func() {
		tpl := must(b, b.vm.MarkTemplate(b.ctx))
		return func() { must(b, tpl.MarkVM(b.ctx, hypervisor.Placement{})) }
	}, hypervisor.ReasonIsTemplate)
	b.check("a host's device", hypervisor.MigrateOptions{}, func() func() {
		k, err := hostdev("0000:00:01.0")
		if err != nil {
			b.Fatal(err)
		}
		return b.define(func(x *libvirtxml.Domain) { x.Devices.Hostdevs = append(x.Devices.Hostdevs, *k) })
	}, hypervisor.ReasonVMPassthrough)
	b.check("UEFI variables in a file", hypervisor.MigrateOptions{}, func() func() {
		return b.define(func(x *libvirtxml.Domain) {
			x.OS.Loader = &libvirtxml.DomainLoader{Path: "/usr/share/OVMF/OVMF_CODE.fd", Readonly: "yes", Type: "pflash"}
			x.OS.NVRam = &libvirtxml.DomainNVRam{NVRam: "/var/lib/libvirt/qemu/nvram/blocked.fd", Template: "/usr/share/OVMF/OVMF_VARS.fd"}
		})
	}, hypervisor.ReasonConfig)
	b.check("a network that the other host lacks", hypervisor.MigrateOptions{}, func() func() {
		b.virsh(b.from, "net-define", b.l.WriteXML("<network><name>only-here</name><forward mode='bridge'/><bridge name='br0'/></network>"))
		undo := b.define(func(x *libvirtxml.Domain) { x.Devices.Interfaces[0].Source.Network.Network = "only-here" })
		return func() {
			undo()
			b.virsh(b.from, "net-undefine", "only-here")
		}
	}, hypervisor.ReasonNetworkMissing)
	other := func(name, uuid string) func() func() {
		return func() func() {
			doc, err := (&libvirtxml.Domain{Type: "qemu", Name: name, UUID: uuid, Memory: &libvirtxml.DomainMemory{Value: 64, Unit: "MiB"},
				OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm"}}}).Marshal()
			if err != nil {
				b.Fatal(err)
			}
			b.virsh(b.to, "define", b.l.WriteXML(doc))
			return func() { b.virsh(b.to, "undefine", name) }
		}
	}
	b.check("the name taken", hypervisor.MigrateOptions{}, other("blocked", "0c0ffee0-0000-4000-8000-00000000b10c"), hypervisor.ReasonNameTaken)
	b.check("the ID taken", hypervisor.MigrateOptions{}, other("another", id), hypervisor.ReasonIDTaken)
	// Several at once are reported at once.
	b.check("three things", hypervisor.MigrateOptions{}, func() func() {
		s := must(b, b.vm.CreateSnapshot(b.ctx, "in-the-way", nil))
		undo := other("blocked", "0c0ffee0-0000-4000-8000-00000000b10c")()
		b.virsh(b.to, "pool-destroy", "shared")
		return func() {
			b.virsh(b.to, "pool-start", "shared")
			undo()
			must(b, s.Delete(b.ctx, nil))
		}
	}, hypervisor.ReasonVMSnapshots, hypervisor.ReasonNameTaken, hypervisor.ReasonDiskUnreachable)
}

// storage is what can be wrong with the place for the disks.
func (b *blockersTest) storage() {
	const uuid = "0c0ffee0-0000-4000-8000-00000000900f"
	b.check("the datastore stopped there", hypervisor.MigrateOptions{}, func() func() {
		b.virsh(b.to, "pool-destroy", "shared")
		return func() { b.virsh(b.to, "pool-start", "shared") }
	}, hypervisor.ReasonDiskUnreachable)
	b.check("another datastore there under the same path", hypervisor.MigrateOptions{}, func() func() {
		b.virsh(b.to, "pool-destroy", "shared")
		b.virsh(b.to, "pool-undefine", "shared")
		b.pool(b.to, "shared", uuid, b.l.Shared)
		b.virsh(b.to, "pool-start", "shared")
		return func() {
			b.virsh(b.to, "pool-destroy", "shared")
			b.virsh(b.to, "pool-undefine", "shared")
			b.pool(b.to, "shared", string(b.shared), b.l.Shared)
			b.virsh(b.to, "pool-start", "shared")
			b.virsh(b.to, "pool-autostart", "shared")
		}
	}, hypervisor.ReasonNoSharedStorage)
	copying := hypervisor.MigrateOptions{Storage: b.local}
	b.check("the datastore for the copy stopped", copying, func() func() {
		b.virsh(b.to, "pool-destroy", "default")
		return func() { b.virsh(b.to, "pool-start", "default") }
	}, hypervisor.ReasonDiskFormat)
	b.check("an image in no pool", copying, func() func() {
		file := filepath.Join(b.l.Dir, "outside.qcow2")
		if err := run(b.ctx, "qemu-img", "create", "-f", "qcow2", file, "1M"); err != nil {
			b.Fatal(err)
		}
		undo := b.define(func(x *libvirtxml.Domain) { x.Devices.Disks[0].Source.File.File = file })
		return func() {
			undo()
			if err := os.Remove(file); err != nil {
				b.Error(err)
			}
		}
	}, hypervisor.ReasonDiskUnreachable)
	b.check("no room", copying, func() func() {
		// The pool's folder becomes one of 1 MiB, the disk one of 8.
		image, err := firstDisk(b.ctx, b.l, b.vm.ID())
		if err != nil {
			b.Fatal(err)
		}
		if err := run(b.ctx, "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", image); err != nil {
			b.Fatal(err)
		}
		if _, err := b.to.Run(b.ctx, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", b.to.Dir); err != nil {
			b.Fatal(err)
		}
		b.virsh(b.to, "pool-refresh", "default")
		return func() {
			if _, err := b.to.Run(b.ctx, "umount", b.to.Dir); err != nil {
				b.Fatal(err)
			}
			b.virsh(b.to, "pool-refresh", "default")
		}
	}, hypervisor.ReasonNoSpace)
}

// host is a host that does not answer. What else it can lack shows TestCheckHost.
func (b *blockersTest) host() {
	b.check("the host down", hypervisor.MigrateOptions{}, func() func() {
		if err := b.to.StopDaemon(b.ctx); err != nil {
			b.Fatal(err)
		}
		return func() {
			if err := b.to.StartDaemon(b.ctx); err != nil {
				b.Fatal(err)
			}
		}
	}, hypervisor.ReasonHostDown)
}

// running is what a machine that runs can do or have.
func (b *blockersTest) running() {
	id := string(b.vm.ID())
	must(b, b.vm.Start(b.ctx))
	if _, err := uptime(b.ctx, b.l, b.vm.ID()); err != nil {
		b.Fatal(err)
	}
	if rep, err := b.vm.CheckMigrate(b.ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(b.to.UUID), Mode: hypervisor.MigrateModeCold}); err != nil || !blocks(rep, hypervisor.ReasonVMState) {
		b.Errorf("a cold migration of a machine that runs: %+v %v", rep, err)
	}
	b.check("a block job", hypervisor.MigrateOptions{}, func() func() {
		file := filepath.Join(b.l.Dir, "copy.qcow2")
		b.virsh(b.from, "blockcopy", id, "vda", "--dest", file, "--bytes", "--bandwidth", "1024", "--transient-job")
		return func() {
			b.virsh(b.from, "blockjob", id, "vda", "--abort")
			if err := os.Remove(file); err != nil {
				b.Error(err)
			}
		}
	}, hypervisor.ReasonVMBusy)
	b.check("saved RAM", hypervisor.MigrateOptions{}, func() func() {
		must(b, b.vm.Suspend(b.ctx))
		return func() { must(b, b.vm.Start(b.ctx)) }
	}, hypervisor.ReasonVMState)
	// The same machine in another Client's host: two definitions can't be one.
	other, err := Open(b.ctx, config(b.to), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	doc := b.virsh(b.from, "dumpxml", "--inactive", id)
	b.check("the same machine at another Client", hypervisor.MigrateOptions{To: other}, func() func() {
		b.virsh(b.to, "define", b.l.WriteXML(doc))
		return func() { b.virsh(b.to, "undefine", id) }
	}, hypervisor.ReasonIDTaken)
}

// memory demands room for a machine that has all but 4 MiB of its host's. Nobody
// touches it, so it is not really there.
func (b *blockersTest) memory() {
	hosts, err := hypervisor.Collect(b.c.Hosts(b.ctx))
	if err != nil {
		b.Fatal(err)
	}
	s := spec(b.l, b.shared)("large")
	s.MemoryBytes = hosts[0].MemoryBytes/hypervisor.MiB*hypervisor.MiB - 4*hypervisor.MiB
	s.Placement.Host = hypervisor.HostID(b.from.UUID)
	vm := must(b, b.c.CreateVM(b.ctx, s))
	b.virsh(b.from, "start", "--paused", string(vm.ID()))
	rep, err := vm.CheckMigrate(b.ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(b.to.UUID)})
	if err != nil || !blocks(rep, hypervisor.ReasonNoMemory) || len(rep.Blockers) != 1 {
		b.Errorf("a machine larger than what is free: %+v %v, want %s", rep, err, hypervisor.ReasonNoMemory)
	}
	must(b, vm.Delete(b.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
}

// TestCheckHost asks a real host about machines with CPUs of their host's
// kind, which the lab's emulated guests don't have, and about hosts that lack
// something.
func TestCheckHost(t *testing.T) {
	l := theLab(t)
	ctx := t.Context()
	opened, err := open(ctx, config(l.Hosts...))
	if err != nil {
		t.Fatal(err)
	}
	d := opened.(*driver)
	defer d.Close()
	src, dst := d.Members[0], d.Members[1]
	mine := dst.Known().CPU.Model
	custom := func(model string, need ...string) *libvirtxml.DomainCPU {
		c := &libvirtxml.DomainCPU{Mode: "custom", Match: "exact", Model: &libvirtxml.DomainCPUModel{Value: model}}
		for _, n := range need {
			c.Features = append(c.Features, libvirtxml.DomainCPUFeature{Policy: "require", Name: n})
		}
		return c
	}
	as := func(mode string) *libvirtxml.DomainCPU { return &libvirtxml.DomainCPU{Mode: mode} }
	same := func(*libvirtx.Facts) {}
	for _, c := range []struct {
		what   string
		cpu    *libvirtxml.DomainCPU
		change func(dst *libvirtx.Facts)
		want   hypervisor.ReasonCode
	}{
		{"no CPU said", nil, same, ""},
		{"a small CPU", custom("486"), same, ""},
		{"features of both makers", custom("486", "vmx", "svm"), same, hypervisor.ReasonCPU},
		{"the host's CPU, and the same there", as("host-passthrough"), same, ""},
		{"the host's CPU, and another there", as("host-passthrough"), func(f *libvirtx.Facts) { f.CPU.Model = "486" }, hypervisor.ReasonCPU},
		{"the largest CPU, and another there", as("maximum"), func(f *libvirtx.Facts) { f.CPU.Model = "486" }, hypervisor.ReasonCPU},
		{"no KVM there", nil, func(f *libvirtx.Facts) { f.KVM = false }, hypervisor.ReasonCPU},
		{"another architecture there", nil, func(f *libvirtx.Facts) { f.Arch = "aarch64" }, hypervisor.ReasonCPU},
		{"an older QEMU without the machine type", nil, func(f *libvirtx.Facts) {
			f.Version, f.Machines = "1.0.0", map[string]bool{"pc-0.15": true}
		}, hypervisor.ReasonVersion},
	} {
		f := *dst.Known()
		f.KVM = true
		c.change(&f)
		m := &move{d: d, dd: d, id: "0c0ffee0-0000-4000-8000-000000000001", src: src, dst: dst, on: true, crossHost: true,
			live: &libvirtxml.Domain{Type: "kvm", Name: "not-there", UUID: "0c0ffee0-0000-4000-8000-000000000001", CPU: c.cpu, Devices: &libvirtxml.DomainDeviceList{},
				OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm", Machine: "q35"}}}}
		_, err := libvirtx.Do(ctx, dst.Conn, 1, func(conn *libvirt.Connect) (struct{}, error) { return struct{}{}, m.checkHost(conn, src.Known(), &f) })
		if err != nil {
			t.Fatal(err)
		}
		if all := m.report.Blockers; c.want == "" && len(all) > 0 || c.want != "" && (len(all) != 1 || !blocks(m.report, c.want)) {
			t.Errorf("%s: blocked by %+v, want %q", c.what, all, c.want)
		}
	}
	// Older, and with the machine type: a warning.
	m := &move{d: d, dd: d, src: src, dst: dst, live: &libvirtxml.Domain{Type: "qemu", Name: "not-there", UUID: "0c0ffee0-0000-4000-8000-000000000001", Devices: &libvirtxml.DomainDeviceList{}}}
	f := *dst.Known()
	f.Version = "1.0.0"
	_, err = libvirtx.Do(ctx, dst.Conn, 1, func(conn *libvirt.Connect) (struct{}, error) { return struct{}{}, m.checkHost(conn, src.Known(), &f) })
	if err != nil || len(m.report.Blockers) != 0 || len(m.report.Warnings) != 1 || m.report.Warnings[0].Reason != hypervisor.ReasonVersion {
		t.Errorf("an older QEMU: %+v %v, want a warning (the CPU there is %s)", m.report, err, mine)
	}
}
