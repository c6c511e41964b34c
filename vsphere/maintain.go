package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// EnterMaintenance takes one EnterMaintenanceMode_Task. The task waits on the
// server until no machine runs on the host. DRS moves the machines where it
// is fully automated, and elsewhere this driver does.
func (d *driver) EnterMaintenance(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceOptions) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, hostRef(h), "runtime.inMaintenanceMode", "parent")
	if err != nil {
		return nil, err
	}
	if get[bool](p, "runtime.inMaintenanceMode") {
		return hypervisor.DoneTask(newID("maintenance"), hypervisor.TaskState{Result: h.Ref()}), nil
	}
	page, err := d.ListVMs(ctx, hypervisor.VMQuery{Detail: hypervisor.DetailBrief, Host: h})
	if err != nil {
		return nil, err
	}
	var running []hypervisor.Ref
	for _, v := range page.VMs {
		if v.State == hypervisor.StateRunning {
			running = append(running, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(v.ID), Name: v.Name})
		}
	}
	if len(running) > 0 && !r.Evacuate {
		return nil, d.busyWith(ctx, h.Ref(), "machines run on the host", running, "set Evacuate to move them, or shut them down first")
	}
	enter := func(ctx context.Context) (ref, error) {
		return d.launch(ctx, hostRef(h), "enterMaintenanceMode", nil, func() (ref, error) {
			return taskOf(methods.EnterMaintenanceMode_Task(ctx, d.rt, &types.EnterMaintenanceMode_Task{This: hostRef(h), EvacuatePoweredOffVms: types.NewBool(false)}))
		})
	}
	if len(running) == 0 || d.automated(ctx, p.ref("parent")) {
		return d.start(ctx, h.Ref(), enter, nil)
	}
	return d.compose(ctx, "maintenance", h.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		for n, vm := range running {
			j.Phase(fmt.Sprintf("moving %d of %d machines", n+1, len(running)), float64(n)/float64(len(running)+1))
			if err := d.moveAway(ctx, hypervisor.VMID(vm.ID), h); err != nil {
				j.Left(running[n:]...)
				return h.Ref(), hypervisor.Errorf(kindOf(err), vm, "can't be moved away: %w", err)
			}
		}
		_, err := d.step(ctx, j.Report, enter)
		return h.Ref(), err
	})
}

// automated reports whether DRS moves machines of a cluster by itself.
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

// moveAway moves a running machine to the best host that accepts it.
func (d *driver) moveAway(ctx context.Context, id hypervisor.VMID, from hypervisor.HostID) error {
	recs, err := d.Recommend(ctx, hypervisor.PlaceRequest{VM: id})
	if err != nil {
		return err
	}
	var last error = hypervisor.Errorf(hypervisor.ErrExhausted, id.Ref(), "no other host takes the machine")
	for _, r := range recs {
		if r.Host == from {
			continue
		}
		m, err := d.plan(ctx, id, hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{Host: r.Host, Mode: hypervisor.MigrateModeLive}})
		if err != nil {
			return err
		}
		if !m.report.OK() {
			last = hypervisor.Errorf(hypervisor.ErrIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
			continue
		}
		_, err = d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.relocate(ctx, id, m.spec) })
		return err
	}
	return last
}

// ExitMaintenance takes one ExitMaintenanceMode_Task.
func (d *driver) ExitMaintenance(ctx context.Context, h hypervisor.HostID) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, hostRef(h), "runtime.inMaintenanceMode")
	if err != nil {
		return nil, err
	}
	if !get[bool](p, "runtime.inMaintenanceMode") {
		return hypervisor.DoneTask(newID("maintenance"), hypervisor.TaskState{Result: h.Ref()}), nil
	}
	return d.start(ctx, h.Ref(), func(ctx context.Context) (ref, error) {
		return d.launch(ctx, hostRef(h), "exitMaintenanceMode", nil, func() (ref, error) {
			return taskOf(methods.ExitMaintenanceMode_Task(ctx, d.rt, &types.ExitMaintenanceMode_Task{This: hostRef(h)}))
		})
	}, nil)
}
