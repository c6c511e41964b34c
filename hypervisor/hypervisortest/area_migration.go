package hypervisortest

import (
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// migration: checks that change nothing, moves that keep memory and content,
// refusals with every blocker.
func migration(e *env) {
	vm := e.create("vm")
	e.write(vm, "cargo")
	hosts := e.hostIDs()
	blocked := func(err error, reason hypervisor.ReasonCode, what string) {
		e.Helper()
		var b *hypervisor.BlockedError
		if !errors.As(err, &b) {
			e.Errorf("%s: %v (kind %s), want a *BlockedError", what, err, hypervisor.KindOf(err))
			return
		}
		if !slices.ContainsFunc(b.Blockers, func(x hypervisor.Blocker) bool { return x.Reason == reason }) {
			e.Errorf("%s: blockers %+v, want %q among them", what, b.Blockers, reason)
		}
		for _, x := range b.Blockers {
			if x.Detail == "" || x.Reason == "" {
				e.Errorf("%s: a blocker lacks reason or detail: %+v", what, x)
			}
		}
	}
	otherHost := func(i hypervisor.VMInfo) hypervisor.HostID {
		for _, h := range hosts {
			if h != i.Host {
				return h
			}
		}
		return ""
	}
	if e.has(hypervisor.MigrateLive) {
		e.start(vm)
		from := e.info(vm)
		to := otherHost(from)
		if to == "" {
			e.Fatalf("%s is declared, and there is no second host", hypervisor.MigrateLive)
		}
		opt := hypervisor.MigrateOptions{Host: to, Mode: hypervisor.Live}
		rep, err := vm.CheckMigrate(e.ctx, opt)
		e.ok(err, "CheckMigrate")
		if !rep.OK() {
			e.Fatalf("CheckMigrate finds blockers: %+v", rep.Blockers)
		}
		if i := e.info(vm); i.Host != from.Host || i.State != hypervisor.Running {
			e.Errorf("CheckMigrate changed the machine: on %s, %s", i.Host, i.State)
		}
		for n := range 2 {
			up := e.uptime(vm)
			t := vm.Migrate(e.ctx, opt)
			last := -1.0
			for p, err := range t.Progress(e.ctx) {
				e.ok(err, "Progress of Migrate")
				if p.Fraction > 1 || p.Fraction >= 0 && p.Fraction < last-1e-9 && p.Phase == "" {
					e.Errorf("Progress went from %v to %v", last, p.Fraction)
				}
				last = p.Fraction
			}
			r, err := t.Wait(e.ctx)
			e.ok(err, "Migrate to %s", opt.Host)
			if i := e.info(vm); i.Host != opt.Host || r.Host != "" && r.Host != opt.Host {
				e.Errorf("after Migrate to %s the machine is on %s, the result says %s", opt.Host, i.Host, r.Host)
			}
			e.state(vm, hypervisor.Running, "Migrate")
			e.sameBoot(vm, up, "Migrate")
			if r.VM != vm.ID() || r.Downtime < -1 || r.Total < 0 {
				e.Errorf("Migrate's result is %+v", r)
			}
			if n == 0 {
				opt.Host = from.Host // and back
			}
		}
		rep, err = vm.CheckMigrate(e.ctx, hypervisor.MigrateOptions{Host: e.info(vm).Host, Mode: hypervisor.Live})
		e.ok(err, "CheckMigrate to the same host")
		if !slices.ContainsFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonSameHost }) {
			e.Errorf("CheckMigrate to the same host: %+v, want %q", rep, hypervisor.ReasonSameHost)
		}
		_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: e.info(vm).Host, Mode: hypervisor.Live}).Wait(e.ctx)
		blocked(err, hypervisor.ReasonSameHost, "Migrate to the same host")
		_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: "no-such-host"}).Wait(e.ctx)
		e.oneOf(err, "Migrate to an absent host", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
		_, err = e.c.VM(e.AbsentVM).CheckMigrate(e.ctx, hypervisor.MigrateOptions{Host: to})
		e.kind(err, hypervisor.ErrNotFound, "CheckMigrate of an absent ID")
		e.state(vm, hypervisor.Running, "refused migrations")
		e.proved(hypervisor.MigrateLive)

		if e.has(hypervisor.MigrateTuning) {
			to := otherHost(e.info(vm))
			_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, BandwidthBytes: 512 * hypervisor.MiB}).Wait(e.ctx)
			e.ok(err, "Migrate with a limit of bandwidth")
			e.proved(hypervisor.MigrateTuning)
		}
		if e.has(hypervisor.MigratePostCopy) {
			up := e.uptime(vm)
			_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: otherHost(e.info(vm)), PostCopy: true}).Wait(e.ctx)
			e.ok(err, "Migrate with PostCopy")
			e.sameBoot(vm, up, "Migrate with PostCopy")
			e.proved(hypervisor.MigratePostCopy)
		}
		e.off(vm)
		e.content(vm, "cargo", "live migration")
		_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: otherHost(e.info(vm)), Mode: hypervisor.Live}).Wait(e.ctx)
		e.oneOf(err, "live Migrate of a machine that is off", hypervisor.ErrInvalidState, hypervisor.ErrIncompatible)
	}
	if e.has(hypervisor.MigrateCold) {
		i := e.info(vm)
		to := otherHost(i)
		_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.Cold}).Wait(e.ctx)
		e.ok(err, "cold Migrate")
		if n := e.info(vm); n.Host != "" && n.Host != to || n.State != hypervisor.Off {
			e.Errorf("after cold Migrate to %s the machine is on %q and %s", to, n.Host, n.State)
		}
		e.content(vm, "cargo", "cold Migrate")
		e.proved(hypervisor.MigrateCold)
	}
	store := func() hypervisor.DatastoreID {
		e.Helper()
		i := e.info(vm)
		if len(i.Disks) == 0 {
			e.Fatalf("Spec has no disk")
		}
		for ds, err := range e.c.Datastores(e.ctx) {
			e.ok(err, "Datastores")
			if ds.ID != i.Disks[0].Datastore && ds.Accessible && (len(ds.Hosts) == 0 || i.Host == "" || slices.Contains(ds.Hosts, i.Host)) {
				return ds.ID
			}
		}
		e.Fatalf("storage migration is declared, and there is no second datastore for %s", i.Disks[0].Datastore)
		return ""
	}
	moved := func(to hypervisor.DatastoreID, images []string, how string) {
		e.Helper()
		for _, d := range e.info(vm).Disks {
			if d.Datastore != to {
				e.Errorf("after %s the disk is on %s, want %s", how, d.Datastore, to)
			}
		}
		if e.Images != nil && len(e.listImages()) != len(images) {
			e.Errorf("%s left source images: %v, before: %v", how, e.listImages(), images)
		}
	}
	if e.has(hypervisor.MigrateStorage) {
		to, images := store(), e.listImages()
		_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Storage: to}).Wait(e.ctx)
		e.ok(err, "Migrate of storage")
		moved(to, images, "Migrate of storage")
		e.content(vm, "cargo", "Migrate of storage")
		_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Storage: "no-such-datastore"}).Wait(e.ctx)
		e.oneOf(err, "Migrate to an absent datastore", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
		e.proved(hypervisor.MigrateStorage)
	}
	if e.has(hypervisor.MigrateLiveStorage) {
		e.start(vm)
		up := e.uptime(vm)
		to, images := store(), e.listImages()
		_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Storage: to}).Wait(e.ctx)
		e.ok(err, "live Migrate of storage")
		e.state(vm, hypervisor.Running, "live Migrate of storage")
		e.sameBoot(vm, up, "live Migrate of storage")
		moved(to, images, "live Migrate of storage")
		e.off(vm)
		e.content(vm, "cargo", "live Migrate of storage")
		e.proved(hypervisor.MigrateLiveStorage)
	}
	if e.has(hypervisor.MigrateBoth) {
		e.start(vm)
		up := e.uptime(vm)
		to := otherHost(e.info(vm))
		i := e.info(vm)
		var ds hypervisor.DatastoreID
		for d, err := range e.c.Datastores(e.ctx) {
			e.ok(err, "Datastores")
			if slices.Contains(d.Hosts, to) && d.ID != i.Disks[0].Datastore && d.Accessible {
				ds = d.ID
			}
		}
		if ds == "" {
			e.Fatalf("%s is declared, and host %s has no other datastore", hypervisor.MigrateBoth, to)
		}
		images := e.listImages()
		_, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, Storage: ds}).Wait(e.ctx)
		e.ok(err, "Migrate of host and storage")
		if n := e.info(vm); n.Host != to {
			e.Errorf("after Migrate of host and storage it is on %s, want %s", n.Host, to)
		}
		e.sameBoot(vm, up, "Migrate of host and storage")
		moved(ds, images, "Migrate of host and storage")
		e.off(vm)
		e.content(vm, "cargo", "Migrate of host and storage")
		e.proved(hypervisor.MigrateBoth)
	}
	if e.has(hypervisor.MigrateCross) && e.Other != nil {
		if e.info(vm).State == hypervisor.Off {
			e.start(vm)
		}
		up := e.uptime(vm)
		all, err := hypervisor.Collect(e.Other.Hosts(e.ctx))
		e.ok(err, "Hosts of the other Client")
		opt := hypervisor.MigrateOptions{To: e.Other, Host: all[0].ID}
		for ds, err := range e.Other.Datastores(e.ctx) {
			e.ok(err, "Datastores of the other Client")
			if ds.Accessible && slices.Contains(ds.Hosts, opt.Host) {
				opt.Storage = ds.ID
			}
		}
		rep, err := vm.CheckMigrate(e.ctx, opt)
		e.ok(err, "CheckMigrate to another Client")
		if !rep.OK() {
			e.Fatalf("CheckMigrate to another Client finds blockers: %+v", rep.Blockers)
		}
		r, err := vm.Migrate(e.ctx, opt).Wait(e.ctx)
		e.ok(err, "Migrate to another Client")
		there := e.Other.VM(r.VM)
		if i, err := there.Info(e.ctx); err != nil || i.State != hypervisor.Running {
			e.Errorf("after Migrate to another Client the machine there is %+v (%v)", i.State, err)
		}
		if e.Uptime != nil {
			if n, err := e.Uptime(e.ctx, r.VM); err != nil || n < up {
				e.Errorf("after Migrate to another Client the counter is %d (%v), it was %d", n, err, up)
			}
		}
		if _, err := vm.Info(e.ctx); !errors.Is(err, hypervisor.ErrNotFound) {
			e.Errorf("after Migrate to another Client the source still has the machine: %v", err)
		}
		_, err = there.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
		e.ok(err, "Delete at the other Client")
		e.proved(hypervisor.MigrateCross)
	}
}
