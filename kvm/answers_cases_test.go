//go:build cgo

package kvm

import (
	"github.com/anyvisor/anyvisor/hypervisor"
)

func answersCases() []answersCase {
	start := func(a *answersTest) { a.must(ended(a.ctx, a.vm.Start(a.ctx))) }
	snapshot := func(a *answersTest, name string) {
		a.must(ended(a.ctx, a.vm.CreateSnapshot(a.ctx, name, nil)))
	}
	clone := func(mode hypervisor.CloneMode) func(a *answersTest) error {
		return func(a *answersTest) error {
			return ended(a.ctx, a.mine().Clone(a.ctx, "answers-2", &hypervisor.CloneOptions{Mode: mode, Token: string(a.vm.ID())}))
		}
	}
	power := func(do func(*hypervisor.VM, *answersTest) *hypervisor.Task[hypervisor.None]) func(a *answersTest) error {
		return func(a *answersTest) error { return ended(a.ctx, do(a.mine(), a)) }
	}
	move := func(host int, pool string) func(a *answersTest) error {
		return func(a *answersTest) error {
			o := hypervisor.MigrateOptions{}
			if host > 0 {
				o.Host = hypervisor.HostID(a.l.Hosts[host].UUID)
			}
			if pool != "" {
				o.Storage = poolUUID(a, a.l.Hosts[host], pool)
			}
			return ended(a.ctx, a.mine().Migrate(a.ctx, o))
		}
	}
	return []answersCase{
		{name: "create", do: func(a *answersTest) error {
			s := spec(a.l, poolUUID(a, a.l.Hosts[0], "default"))("answers-2")
			s.Token = string(a.vm.ID())
			s.Disks = append(s.Disks, s.Disks[0])
			return ended(a.ctx, a.c.CreateVM(a.ctx, s))
		}},
		{name: "full clone", do: clone(hypervisor.FullClone)},
		{name: "linked clone", do: clone(hypervisor.Linked)},
		{name: "full clone of a running machine", prepare: start, do: clone(hypervisor.FullClone)},
		{name: "linked clone of a running machine", prepare: start, do: clone(hypervisor.Linked)},
		{name: "snapshot", do: func(a *answersTest) error { return ended(a.ctx, a.mine().CreateSnapshot(a.ctx, "s", nil)) }, done: hypervisor.KindExists},
		{name: "snapshot with memory", prepare: start, done: hypervisor.KindExists,
			do: func(a *answersTest) error {
				return ended(a.ctx, a.mine().CreateSnapshot(a.ctx, "s", &hypervisor.SnapshotOptions{Memory: true}))
			}},
		{name: "revert", do: func(a *answersTest) error { return ended(a.ctx, a.mine().Snapshot("s").Revert(a.ctx, nil)) },
			prepare: func(a *answersTest) {
				snapshot(a, "s")
				a.must(writeDisk(a.ctx, a.l, a.vm.ID(), "later"))
			}},
		{name: "delete a snapshot", done: hypervisor.KindNotFound,
			do: func(a *answersTest) error { return ended(a.ctx, a.mine().Snapshot("s").Delete(a.ctx, nil)) },
			prepare: func(a *answersTest) {
				snapshot(a, "s")
				a.must(writeDisk(a.ctx, a.l, a.vm.ID(), "later"))
				snapshot(a, "t")
			}},
		{name: "delete a snapshot of a running machine", done: hypervisor.KindNotFound,
			do: func(a *answersTest) error { return ended(a.ctx, a.mine().Snapshot("s").Delete(a.ctx, nil)) },
			prepare: func(a *answersTest) {
				start(a)
				snapshot(a, "s")
			}},
		{name: "mark as template", do: func(a *answersTest) error { return ended(a.ctx, a.mine().MarkTemplate(a.ctx)) }},
		{name: "mark as machine",
			prepare: func(a *answersTest) { a.must(ended(a.ctx, a.vm.MarkTemplate(a.ctx))) },
			do: func(a *answersTest) error {
				return ended(a.ctx, a.c.Template(hypervisor.TemplateID(a.vm.ID())).MarkVM(a.ctx, hypervisor.Placement{}))
			}},
		{name: "attach a disk", do: func(a *answersTest) error {
			return ended(a.ctx, a.mine().AttachDisk(a.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}))
		}},
		{name: "detach a disk", done: hypervisor.KindNotFound,
			prepare: func(a *answersTest) {
				a.must(ended(a.ctx, a.vm.AttachDisk(a.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB})))
			},
			do: func(a *answersTest) error {
				return ended(a.ctx, a.mine().DetachDisk(a.ctx, "vdb", hypervisor.DeleteDisks))
			}},
		{name: "grow a disk", do: func(a *answersTest) error { return ended(a.ctx, a.mine().GrowDisk(a.ctx, "vda", 80*hypervisor.MiB)) }},
		{name: "reconfigure", do: func(a *answersTest) error {
			text := "changed"
			return ended(a.ctx, a.mine().Reconfigure(a.ctx, hypervisor.Changes{Name: "answers-renamed", CPUs: 2, MemoryBytes: 256 * hypervisor.MiB, Description: &text}))
		}},
		{name: "start", do: power(func(m *hypervisor.VM, a *answersTest) *hypervisor.Task[hypervisor.None] { return m.Start(a.ctx) })},
		{name: "power off", prepare: start, do: power(func(m *hypervisor.VM, a *answersTest) *hypervisor.Task[hypervisor.None] { return m.PowerOff(a.ctx) })},
		{name: "pause", prepare: start, do: power(func(m *hypervisor.VM, a *answersTest) *hypervisor.Task[hypervisor.None] { return m.Pause(a.ctx) })},
		{name: "suspend", prepare: start, do: power(func(m *hypervisor.VM, a *answersTest) *hypervisor.Task[hypervisor.None] { return m.Suspend(a.ctx) })},
		{name: "delete", done: hypervisor.KindNotFound, prepare: func(a *answersTest) { snapshot(a, "s") },
			do: func(a *answersTest) error { return ended(a.ctx, a.mine().Delete(a.ctx, hypervisor.DeleteDisks, nil)) }},
		{name: "move", do: move(1, "default")},
		{name: "move of a disk", do: move(0, "shared")},
		{name: "live move", pool: "shared", prepare: start, do: move(1, "")},
		{name: "live move of a disk", prepare: start, do: move(0, "shared")},
	}
}
