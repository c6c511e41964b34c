package hypervisortest

import (
	"context"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// events: what happens is told, and a token resumes.
func events(e *env) {
	native := e.has(hypervisor.WatchEvents)
	resume := e.has(hypervisor.WatchResume)
	wait := e.EventWait
	if wait == 0 {
		wait = 20 * time.Second
	}
	ctx, stop := context.WithCancel(e.ctx)
	defer stop()
	ch := make(chan hypervisor.Event, 1000)
	done := make(chan error, 1)
	go func() {
		var last error
		for ev, err := range e.c.Watch(ctx, "") {
			if err != nil {
				last = err
				break
			}
			ch <- ev
		}
		done <- last
	}()
	time.Sleep(100 * time.Millisecond) // until the watch stands
	vm := e.create("vm")
	token := ""
	expect := func(what string, f func(hypervisor.Event) bool) {
		e.Helper()
		t := time.After(wait)
		for {
			select {
			case ev := <-ch:
				if ev.Type == "" || ev.Time.IsZero() {
					e.Errorf("event without type or time: %+v", ev)
				}
				if native && resume && ev.Token == "" {
					e.Errorf("event without a token: %+v", ev)
				}
				if ev.Object.ID == string(vm.ID()) && f(ev) {
					token = ev.Token
					return
				}
			case <-t:
				e.Fatalf("no event within %v: %s", wait, what)
			case err := <-done:
				e.Fatalf("Watch ended: %v", err)
			}
		}
	}
	expect("created", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMCreated })
	e.start(vm)
	expect("running", func(v hypervisor.Event) bool {
		return v.Type == hypervisor.VMState && v.State == hypervisor.Running
	})
	e.off(vm)
	expect("off", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMState && v.State == hypervisor.Off })
	from := token
	_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete")
	expect("deleted", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMDeleted })
	stop()
	select {
	case err := <-done:
		e.ok(err, "Watch after its context ended")
	case <-time.After(wait):
		e.Fatalf("Watch goes on after its context ended")
	}
	if native {
		e.proved(hypervisor.WatchEvents)
	}
	// From an old token: the deletion again, or a Resync.
	ctx2, stop2 := context.WithTimeout(e.ctx, wait)
	defer stop2()
	if from == "" && resume {
		e.Errorf("%s is declared, and events carry no token", hypervisor.WatchResume)
	}
	for _, token := range []string{from, "no such token"} {
		got := false
		if token == "" {
			continue
		}
		for ev, err := range e.c.Watch(ctx2, token) {
			e.ok(err, "Watch from token %q", token)
			if ev.Type == hypervisor.Resync && (!resume || token != from) || ev.Type == hypervisor.VMDeleted && ev.Object.ID == string(vm.ID()) {
				got = true
				break
			}
		}
		if !got {
			e.Errorf("Watch from token %q told neither the deletion nor a Resync", token)
		}
	}
	if resume {
		e.proved(hypervisor.WatchResume)
	}
}

// guest: facts, programs, clock; without an agent the reason is said.
func guest(e *env) {
	vm := e.create("vm")
	type probe struct {
		k hypervisor.Capability
		f func() error
	}
	now := time.Now()
	probes := []probe{
		{hypervisor.GuestFacts, func() error {
			g, err := vm.Guest(e.ctx)
			if err == nil && g.OS == "" && g.HostName == "" && len(g.Addresses) == 0 && g.Tools == "" {
				e.Errorf("Guest tells nothing")
			}
			return err
		}},
		{hypervisor.GuestExec, func() error {
			r, err := vm.Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", "exit 7"}, User: "root", Password: "x"})
			if err == nil && r.ExitCode != 7 {
				e.Errorf("Exec of exit 7 ended with %d", r.ExitCode)
			}
			return err
		}},
		{hypervisor.GuestClock, func() error {
			r, err := vm.Clock(e.ctx)
			if err == nil && (r.Host.Before(now.Add(-time.Hour)) || r.Uncertainty <= 0 || r.Guest.IsZero()) {
				e.Errorf("Clock tells %+v", r)
			}
			if err == nil {
				err = vm.SetClock(e.ctx, time.Time{})
			}
			return err
		}},
		{hypervisor.GuestFreeze, func() error {
			err := vm.Freeze(e.ctx)
			if err == nil {
				err = vm.Thaw(e.ctx)
			}
			return err
		}},
	}
	for _, p := range probes {
		if e.has(p.k) {
			e.oneOf(p.f(), "asking the guest of a machine that is off ("+string(p.k)+")", hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
		}
	}
	e.start(vm)
	for _, p := range probes {
		if !e.has(p.k) {
			continue
		}
		s, err := vm.Supports(e.ctx, p.k)
		e.ok(err, "Supports(%s) of a running machine", p.k)
		err = p.f()
		if s.Level == hypervisor.No {
			e.refused(err, p.k, vm.ID().Ref())
		} else if err != nil {
			e.Errorf("%s: %v", p.k, err)
		}
		if s.Level != hypervisor.No {
			e.proved(p.k)
		}
	}
}

// hosts: facts and limits, placement, balance, maintenance, evacuation.
func hosts(e *env) {
	all, err := hypervisor.Collect(e.c.Hosts(e.ctx))
	e.ok(err, "Hosts")
	if len(all) == 0 {
		e.Fatalf("Hosts lists none")
	}
	for _, h := range all {
		if h.State != hypervisor.HostUp {
			continue
		}
		if h.ID == "" || h.Name == "" || h.MemoryBytes <= 0 || h.FreeBytes < 0 || h.FreeBytes > h.MemoryBytes || h.CPU.Threads <= 0 || h.Version == "" {
			e.Errorf("host lacks ID, name, memory, CPUs or version: %+v", h)
		}
		i, err := e.c.Host(h.ID).Info(e.ctx)
		if err != nil || i.Name != h.Name {
			e.Errorf("Host(%s).Info: %v", h.ID, err)
		}
	}
	_, err = e.c.Host("no-such-host").Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of an absent host")

	vm := e.create("vm")
	e.has(hypervisor.PlacementNative)
	recs, err := e.c.Place(e.ctx, hypervisor.PlaceRequest{VM: vm.ID()})
	e.ok(err, "Place")
	if len(recs) == 0 {
		e.Errorf("Place recommends no host")
	}
	for n, r := range recs {
		if !slices.ContainsFunc(all, func(h hypervisor.HostInfo) bool { return h.ID == r.Host }) {
			e.Errorf("Place recommends the unknown host %s", r.Host)
		}
		if r.Score < 0 || r.Score > 1 || n > 0 && r.Score > recs[n-1].Score {
			e.Errorf("Place's scores are out of range or order: %+v", recs)
		}
	}
	if e.has(hypervisor.PlacementNative) && len(recs) > 0 && recs[0].Native {
		e.proved(hypervisor.PlacementNative)
	}
	_, err = e.c.Place(e.ctx, hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: 1 << 60})
	e.kind(err, hypervisor.ErrExhausted, "Place of 1 EiB")
	_, err = e.c.Place(e.ctx, hypervisor.PlaceRequest{})
	e.kind(err, hypervisor.ErrInvalidArgument, "Place of nothing")
	if _, err = e.c.PlanBalance(e.ctx, nil); err != nil {
		e.oneOf(err, "PlanBalance", hypervisor.ErrUnsupported)
	}

	if e.has(hypervisor.MigrateLive) {
		e.start(vm)
		up := e.uptime(vm)
		from := e.info(vm).Host
		r, err := e.c.Host(from).Evacuate(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Evacuate")
		i := e.info(vm)
		if i.Host == from || i.State != hypervisor.Running || len(r.Moved) == 0 {
			e.Errorf("after Evacuate the machine is %s on %s (was on %s), moved: %+v", i.State, i.Host, from, r.Moved)
		}
		e.sameBoot(vm, up, "Evacuate")
	}
	if e.has(hypervisor.HostMaintenance) {
		if e.info(vm).State == hypervisor.Off {
			e.start(vm)
		}
		h := e.c.Host(e.info(vm).Host)
		_, err := h.EnterMaintenance(e.ctx, nil).Wait(e.ctx)
		e.kind(err, hypervisor.ErrBusy, "EnterMaintenance of a host with a running machine, without Evacuate")
		if len(e.hostIDs()) > 1 && e.has(hypervisor.MigrateLive) {
			_, err = h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(e.ctx)
			e.ok(err, "EnterMaintenance with Evacuate")
			if i := e.info(vm); i.Host == h.ID() || i.State != hypervisor.Running {
				e.Errorf("after EnterMaintenance the machine is %s on %s", i.State, i.Host)
			}
		} else {
			e.off(vm)
		}
		for range 2 {
			_, err = h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(e.ctx)
			e.ok(err, "EnterMaintenance again")
		}
		if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostMaintaining {
			e.Errorf("after EnterMaintenance the host is %s (%v)", i.State, err)
		}
		for range 2 {
			_, err = h.ExitMaintenance(e.ctx).Wait(e.ctx)
			e.ok(err, "ExitMaintenance")
		}
		if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostUp {
			e.Errorf("after ExitMaintenance the host is %s (%v)", i.State, err)
		}
		e.proved(hypervisor.HostMaintenance)
	}
}

// volumes: images apart from machines.
func volumes(e *env) {
	if !e.has(hypervisor.VolumeManage) {
		return
	}
	var ds hypervisor.DatastoreInfo
	for d, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		if d.Accessible && d.FreeBytes > 64*hypervisor.MiB {
			ds = d
			break
		}
	}
	spec := hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: ds.ID, SizeBytes: 16 * hypervisor.MiB}
	id, err := e.c.CreateVolume(e.ctx, spec).Wait(e.ctx)
	e.ok(err, "CreateVolume")
	list := func() (out hypervisor.VolumeInfo) {
		e.Helper()
		for v, err := range e.c.Volumes(e.ctx, ds.ID) {
			e.ok(err, "Volumes")
			if v.ID == id {
				out = v
			}
		}
		return out
	}
	if v := list(); v.ID != id || v.SizeBytes != spec.SizeBytes || v.Datastore != ds.ID {
		e.Errorf("the volume is %+v, want %+v", v, spec)
	}
	vm := e.create("vm", func(s *hypervisor.VMSpec) {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{Volume: id})
	})
	_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
	e.kind(err, hypervisor.ErrBusy, "DeleteVolume of a machine's disk")
	_, err = vm.Delete(e.ctx, hypervisor.KeepDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete with KeepDisks")
	if v := list(); v.ID != id {
		e.Errorf("KeepDisks removed the volume %s", id)
	}
	kept := e.added(e.images)
	for range 1 {
		_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
		e.ok(err, "DeleteVolume")
	}
	_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "DeleteVolume again")
	for _, k := range kept { // the machine's first disk
		for v, err := range e.c.Volumes(e.ctx, "") {
			if err != nil {
				break
			}
			if string(v.ID) == k && v.ID != id {
				_, err = e.c.DeleteVolume(e.ctx, v.ID).Wait(e.ctx)
				e.ok(err, "DeleteVolume of %s", v.ID)
			}
		}
	}
	e.images = e.listImages()
	_, err = hypervisor.Collect(e.c.Volumes(e.ctx, "no-such-datastore"))
	e.oneOf(err, "Volumes of an absent datastore", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
	e.proved(hypervisor.VolumeManage)
}
