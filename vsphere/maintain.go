package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// EnterMaintenance is EnterMaintenanceMode_Task. It waits on the server until
// no machine runs on the host: DRS moves them where it is fully automated,
// and elsewhere this driver does.
func (d *driver) EnterMaintenance(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceRequest) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, hostRef(h), "runtime.inMaintenanceMode", "parent")
	if err != nil {
		return nil, err
	}
	if get[bool](p, "runtime.inMaintenanceMode") {
		return hypervisor.DoneTask(newID("maintenance"), hypervisor.TaskState{Result: h.Ref()}), nil
	}
	page, err := d.ListVMs(ctx, hypervisor.VMQuery{Detail: hypervisor.Brief, Host: h})
	if err != nil {
		return nil, err
	}
	var running []hypervisor.Ref
	for _, v := range page.VMs {
		if v.State == hypervisor.Running {
			running = append(running, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: string(v.ID), Name: v.Name})
		}
	}
	if len(running) > 0 && !r.Evacuate {
		return nil, busyWith(h.Ref(), "machines run on the host", running)
	}
	enter := func(ctx context.Context) (ref, error) {
		res, err := methods.EnterMaintenanceMode_Task(ctx, d.rt, &types.EnterMaintenanceMode_Task{This: hostRef(h), EvacuatePoweredOffVms: types.NewBool(false)})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	}
	if len(running) == 0 || d.automated(ctx, p.ref("parent")) {
		self, err := enter(ctx)
		if err != nil {
			return nil, err
		}
		return d.job(self), nil
	}
	return d.group.Go(ctx, newID("maintenance"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		for n, vm := range running {
			report(hypervisor.TaskState{Fraction: float64(n) / float64(len(running)+1), Phase: fmt.Sprintf("moving %d of %d machines", n+1, len(running))})
			if err := d.moveAway(ctx, hypervisor.VMID(vm.ID), h); err != nil {
				return hypervisor.TaskState{Err: hypervisor.Errorf(kindOf(err), vm, "can't be moved away: %w", err), Leftover: running[n:]}
			}
		}
		_, err := d.step(ctx, report, enter)
		return hypervisor.TaskState{Result: h.Ref(), Err: err}
	})
}

// automated tells whether DRS moves machines of a cluster by itself.
func (d *driver) automated(ctx context.Context, cluster ref) bool {
	if cluster.Type != "ClusterComputeResource" {
		return false
	}
	p, err := d.one(ctx, cluster, "configurationEx")
	if err != nil {
		return false
	}
	x, ok := p["configurationEx"].(types.ClusterConfigInfoEx)
	return ok && x.DrsConfig.Enabled != nil && *x.DrsConfig.Enabled && x.DrsConfig.DefaultVmBehavior == types.DrsBehaviorFullyAutomated
}

// moveAway moves a running machine to the best host that takes it.
func (d *driver) moveAway(ctx context.Context, id hypervisor.VMID, from hypervisor.HostID) error {
	recs, err := d.Recommend(ctx, hypervisor.PlaceRequest{VM: id})
	if err != nil {
		return err
	}
	var last error = hypervisor.Errorf(hypervisor.KindExhausted, id.Ref(), "no other host takes the machine")
	for _, r := range recs {
		if r.Host == from {
			continue
		}
		m, err := d.plan(ctx, id, hypervisor.MigrateRequest{Host: r.Host, Mode: hypervisor.Live})
		if err != nil {
			return err
		}
		if !m.report.OK() {
			last = hypervisor.Errorf(hypervisor.KindIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
			continue
		}
		_, err = d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.relocate(ctx, id, m.spec) })
		return err
	}
	return last
}

// ExitMaintenance is ExitMaintenanceMode_Task.
func (d *driver) ExitMaintenance(ctx context.Context, h hypervisor.HostID) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, hostRef(h), "runtime.inMaintenanceMode")
	if err != nil {
		return nil, err
	}
	if !get[bool](p, "runtime.inMaintenanceMode") {
		return hypervisor.DoneTask(newID("maintenance"), hypervisor.TaskState{Result: h.Ref()}), nil
	}
	res, err := methods.ExitMaintenanceMode_Task(ctx, d.rt, &types.ExitMaintenanceMode_Task{This: hostRef(h)})
	if err != nil {
		return nil, err
	}
	return d.job(res.Returnval), nil
}
