package hypervisortest

import (
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// traveller makes a machine, or uses the running one, and returns another
// host for it.
func (e *env) traveller(run bool) (*hypervisor.VM, hypervisor.HostID) {
	e.Helper()
	var vm *hypervisor.VM
	if run {
		vm = e.running()
	} else {
		vm = e.create("vm")
	}
	here := e.info(vm).Host
	for _, h := range e.hostIDs() {
		if h != here {
			return vm, h
		}
	}
	return vm, here
}

// otherStore returns another datastore for the machine.
func (e *env) otherStore(vm *hypervisor.VM) hypervisor.DatastoreID {
	e.Helper()
	i := e.info(vm)
	for _, d := range e.datastores() {
		if d.ID != i.Disks[0].Datastore && d.Accessible && d.FreeBytes > hypervisor.GiB && (i.Host == "" || len(d.Hosts) == 0 || slices.Contains(d.Hosts, i.Host)) {
			return d.ID
		}
	}
	e.Fatalf("there is no second datastore for %s", i.Disks[0].Datastore)
	return ""
}

func migrateRows() []row {
	type options = hypervisor.MigrateOptions
	live, storage := caps{capability.MigrateLive}, caps{capability.MigrateStorage}
	rows := []row{
		{name: "MigrateOptions.Host", run: func(e *env) {
			if !e.has(capability.MigrateCold) && !e.has(capability.MigrateLive) {
				e.unshown("no machine moves between hosts")
				return
			}
			running := !e.has(capability.MigrateCold)
			vm, to := e.traveller(running)
			_, err := vm.Migrate(e.ctx, options{Host: to}).Wait(e.ctx)
			e.ok(err, "Migrate")
			if i := e.info(vm); i.Host != to && (running || i.Host != "") {
				e.Errorf("the machine is on %s, want %s", i.Host, to)
			}
		}},
		{name: "MigrateOptions.Storage", needs: storage, run: func(e *env) {
			vm := e.create("vm")
			to := e.otherStore(vm)
			_, err := vm.Migrate(e.ctx, options{Storage: to}).Wait(e.ctx)
			e.ok(err, "Migrate")
			e.same(e.info(vm).Disks[0].Datastore, to, "Datastore")
		}},
		{name: "MigrateOptions.Pool", needs: live, run: func(e *env) {
			// Set beside a Host that is valid, so that the request succeeds
			// if the driver ignores the Pool.
			vm, to := e.traveller(true)
			_, err := vm.Migrate(e.ctx, options{Host: to, Pool: "no-such-pool"}).Wait(e.ctx)
			if errors.Is(err, hypervisor.ErrUnsupported) {
				e.decline(err.Error())
				return
			}
			e.notThere(err, "Migrate to a pool that is not there")
		}},
		{name: "MigrateOptions.To", needs: caps{capability.MigrateCross}, run: func(e *env) {
			if e.Other == nil {
				e.unshown("there is no other Client")
				return
			}
			vm := e.create("vm")
			e.start(vm)
			opt := e.across()
			r, err := vm.Migrate(e.ctx, opt).Wait(e.ctx)
			e.ok(err, "Migrate to another Client")
			there := e.Other.VM(r.VM)
			_, err = there.Info(e.ctx)
			e.ok(err, "Info at the other Client")
			_, err = there.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
			e.ok(err, "Delete at the other Client")
		}},
		{name: "MigrateOptions.Mode", run: func(e *env) {
			mode := hypervisor.MigrateModeCold // of one that runs
			running := e.has(capability.MigrateLive)
			if !running && !e.has(capability.MigrateCold) && !e.has(capability.MigrateStorage) {
				e.unshown("no machine moves")
				return
			}
			if e.has(capability.MigrateCold) {
				mode, running = hypervisor.MigrateModeLive, false
			}
			opt := options{Mode: mode}
			vm, to := e.traveller(running)
			if opt.Host = to; !running && mode == hypervisor.MigrateModeCold {
				opt.Host, opt.Storage = "", e.otherStore(vm)
				e.start(vm)
			}
			before := e.info(vm)
			_, err := vm.Migrate(e.ctx, opt).Wait(e.ctx)
			e.oneOf(err, "Migrate in the wrong mode", hypervisor.ErrInvalidState, hypervisor.ErrIncompatible, hypervisor.ErrUnsupported)
			e.same(e.info(vm).Host, before.Host, "the machine's host after a refusal")
		}},
		{name: "MigrateOptions.Timeout", needs: live, run: func(e *env) {
			if e.Slow == nil {
				e.unshown("migrations can't be made to take long here")
				return
			}
			vm, to := e.traveller(true)
			e.Slow(time.Second)
			_, err := vm.Migrate(e.ctx, options{Host: to, Timeout: 300 * time.Millisecond}).Wait(e.ctx)
			e.Slow(0)
			if errors.Is(err, hypervisor.ErrUnsupported) {
				e.decline(err.Error())
				return
			}
			e.kind(err, hypervisor.ErrTimeout, "Migrate that takes too long")
			if e.info(vm).Host == to {
				e.Errorf("the machine has moved all the same")
			}
		}},
		{name: "MigrateOptions.KeepSource", needs: storage, run: func(e *env) {
			vm := e.create("vm")
			old := e.info(vm).Disks[0].Volume
			r, err := vm.Migrate(e.ctx, options{Storage: e.otherStore(vm), KeepSource: true}).Wait(e.ctx)
			if !e.honoured(err) {
				return
			}
			if !slices.ContainsFunc(r.Kept, func(x hypervisor.Ref) bool { return x.ID == string(old) }) {
				e.Errorf("the result keeps %v, want %s", r.Kept, old)
			}
			there := func(i string) bool { return i == string(old) || strings.HasSuffix(i, "/"+path.Base(string(old))) }
			if e.Images != nil && !slices.ContainsFunc(e.listImages(), there) {
				e.Errorf("the image %s is gone", old)
			}
			e.volumes = append(e.volumes, old)
		}},
	}
	for _, f := range []struct {
		name string
		opt  options
		see  func(options) any
	}{
		{"MaxDowntime", options{MaxDowntime: 70 * time.Millisecond}, func(o options) any { return o.MaxDowntime }},
		{"BandwidthBytes", options{BandwidthBytes: 256 * hypervisor.MiB}, func(o options) any { return o.BandwidthBytes }},
		{"PostCopy", options{PostCopy: true}, func(o options) any { return o.PostCopy }},
		{"AutoConverge", options{AutoConverge: true}, func(o options) any { return o.AutoConverge }},
		{"Compress", options{Compress: true}, func(o options) any { return o.Compress }},
		{"Channels", options{Channels: 3}, func(o options) any { return o.Channels }},
	} {
		rows = append(rows, row{name: "MigrateOptions." + f.name, needs: live, run: func(e *env) {
			k := capability.MigrateTuning
			if f.opt.PostCopy {
				k = capability.MigratePostCopy
			}
			vm, to := e.traveller(true)
			opt := f.opt
			opt.Host = to
			_, err := vm.Migrate(e.ctx, opt).Wait(e.ctx)
			if !e.honoured(err, k) {
				return
			}
			if e.Tuned == nil {
				e.unshown("nothing here shows the options of a migration")
				return
			}
			seen, err := e.Tuned(e.ctx, vm.ID())
			e.ok(err, "the options of the migration")
			e.same(f.see(seen), f.see(opt), "%s of the migration", f.name)
		}})
	}
	return rows
}

// across returns a destination at the other Client.
func (e *env) across() hypervisor.MigrateOptions {
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
