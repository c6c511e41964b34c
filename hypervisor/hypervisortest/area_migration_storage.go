package hypervisortest

import (
	"cmp"
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// store returns a datastore that the machine isn't on and that the given host
// reaches, or else the machine's own.
func (e *env) store(vm *hypervisor.VM, host hypervisor.HostID) hypervisor.DatastoreID {
	e.Helper()
	i := e.info(vm)
	if len(i.Disks) == 0 {
		e.Fatalf("Spec has no disk")
	}
	for ds, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		here := slices.Contains(ds.Hosts, cmp.Or(host, i.Host)) || host == "" && (len(ds.Hosts) == 0 || i.Host == "")
		if ds.ID != i.Disks[0].Datastore && ds.Accessible && here {
			return ds.ID
		}
	}
	e.Fatalf("storage migration is declared, and there is no datastore besides %s for host %q", i.Disks[0].Datastore, cmp.Or(host, i.Host))
	return ""
}

// moved checks that a machine's disks are on a datastore and nowhere else.
func (e *env) moved(vm *hypervisor.VM, to hypervisor.DatastoreID, images []string, how string) {
	e.Helper()
	for _, d := range e.info(vm).Disks {
		if d.Datastore != to {
			e.Errorf("after %s the disk is on %s, want %s", how, d.Datastore, to)
		}
	}
	if now := e.listImages(); e.Images != nil && len(now) != len(images) {
		e.Errorf("%s left source images: %v, before: %v", how, now, images)
	}
}

func migrationStorage(e *env) {
	vm := e.cargo()
	to, images := e.store(vm, ""), e.listImages()
	must(e, vm.Migrate(e.ctx, hypervisor.MigrateOptions{Storage: to}), "Migrate of storage")
	e.moved(vm, to, images, "Migrate of storage")
	e.content(vm, "cargo", "Migrate of storage")
}

func migrationNoDatastore(e *env) {
	err := errOf(e, e.create("vm").Migrate(e.ctx, hypervisor.MigrateOptions{Storage: "no-such-datastore"}))
	e.oneOf(err, "Migrate to an absent datastore", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
}

func migrationLiveStorage(e *env) {
	const what = "live Migrate of storage"
	vm := e.runningCargo()
	to, images := e.store(vm, ""), e.listImages()
	e.migrate(vm, hypervisor.MigrateOptions{Storage: to}, what)
	e.moved(vm, to, images, what)
	e.arrived(vm, what)
}

func migrationBoth(e *env) {
	const what = "Migrate of host and storage"
	vm := e.runningCargo()
	to := e.otherHost(vm)
	ds, images := e.store(vm, to), e.listImages()
	e.migrate(vm, hypervisor.MigrateOptions{Host: to, Storage: ds}, what)
	if n := e.info(vm); n.Host != to {
		e.Errorf("after %s it is on %s, want %s", what, n.Host, to)
	}
	e.moved(vm, ds, images, what)
	e.arrived(vm, what)
}

func migrationCross(e *env) {
	if e.Other == nil {
		e.unshown("the harness has no other Client")
		return
	}
	vm := e.cargo()
	e.start(vm)
	up, opt := e.uptime(vm), e.elsewhere()
	rep, err := vm.CheckMigrate(e.ctx, opt)
	e.ok(err, "CheckMigrate to another Client")
	if !rep.OK() {
		e.Fatalf("CheckMigrate to another Client finds blockers: %+v", rep.Blockers)
	}
	r := must(e, vm.Migrate(e.ctx, opt), "Migrate to another Client")
	there := e.Other.VM(r.VM)
	if i, err := there.Info(e.ctx); err != nil || i.State != hypervisor.StateRunning {
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
	must(e, there.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}), "Delete at the other Client")
}

// elsewhere returns a destination at the other Client.
func (e *env) elsewhere() hypervisor.MigrateOptions {
	e.Helper()
	all, err := hypervisor.Collect(e.Other.Hosts(e.ctx))
	e.ok(err, "Hosts of the other Client")
	opt := hypervisor.MigrateOptions{To: e.Other, Host: all[0].ID}
	for ds, err := range e.Other.Datastores(e.ctx) {
		e.ok(err, "Datastores of the other Client")
		if ds.Accessible && slices.Contains(ds.Hosts, opt.Host) {
			opt.Storage = ds.ID
		}
	}
	return opt
}
