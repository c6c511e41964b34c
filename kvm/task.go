//go:build cgo

package kvm

import (
	"context"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// pollEvery is how often work that libvirt has no event for is looked at.
const pollEvery = 200 * time.Millisecond

// Task IDs are "kvm:operation:machine:nonce", with more parts for migrations,
// so that another process knows what to look for.
func taskID(op string, id hypervisor.VMID, more ...string) hypervisor.TaskID {
	return hypervisor.TaskID(strings.Join(append([]string{"kvm", op, string(id), libvirtx.Nonce()}, more...), ":"))
}

type lockMode uint8

const (
	unlocked  lockMode = iota
	shortWork          // others wait
	longWork           // others are told that it is busy
	reading            // long, and others may read too
)

type work = func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState

// run starts work on a machine in a task of this driver.
func (d *driver) run(ctx context.Context, op string, id hypervisor.VMID, mode lockMode, f work) (hypervisor.DriverTask, error) {
	return d.runAs(ctx, taskID(op, id), op, id, mode, f)
}

func (d *driver) runAs(ctx context.Context, tid hypervisor.TaskID, op string, id hypervisor.VMID, mode lockMode, f work) (hypervisor.DriverTask, error) {
	release := func() {}
	if mode != unlocked {
		var err error
		if release, err = d.locks.take(ctx, id, op+" (task "+string(tid)+")", mode != shortWork, mode == reading); err != nil {
			return nil, err
		}
	}
	t, err := d.tasks.Go(ctx, tid, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		defer release()
		return f(ctx, report)
	})
	if err != nil {
		release()
	}
	return t, err
}

// simple is run for work that has no result but an error.
func (d *driver) simple(ctx context.Context, op string, id hypervisor.VMID, mode lockMode, f func(ctx context.Context) error) (hypervisor.DriverTask, error) {
	return d.run(ctx, op, id, mode, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		return hypervisor.TaskState{Err: f(ctx)}
	})
}

// pause waits, or returns why it can't.
func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// Task implements hypervisor.Driver. Creating, cloning and migrating are
// found again whoever started them; other work only by its own Client.
func (d *driver) Task(ctx context.Context, tid hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := d.tasks.Find(tid); ok {
		return t, nil
	}
	p := strings.Split(string(tid), ":")
	if len(p) < 4 || p[0] != "kvm" || !libvirtx.IsUUID(p[2]) {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, tid.Ref(), "no such task")
	}
	id := hypervisor.VMID(p[2])
	switch p[1] {
	case "create", "clone":
		return d.findMaking(ctx, tid, id)
	case "migrate":
		return d.findMigration(ctx, tid, id, p[4:])
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, tid.Ref(), "libvirt keeps no record of this work, and this Client did not start it")
}

// jobTask names the job that libvirt runs on a machine now.
func jobTask(dom *libvirt.Domain, uuid string) (hypervisor.TaskID, bool) {
	j, err := dom.GetJobStats(0)
	if err != nil || j.Type == libvirt.DOMAIN_JOB_NONE || j.Type == libvirt.DOMAIN_JOB_COMPLETED {
		return "", false
	}
	op := "job"
	if j.OperationSet && j.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT {
		op = "migrate"
	}
	return hypervisor.TaskID("kvm:" + op + ":" + uuid + ":0"), true
}

// adopted is work that another Client does: it can be watched.
type adopted struct {
	hypervisor.DriverTask
	cancel func(context.Context) error
}

func (a adopted) Cancel(ctx context.Context) error {
	if a.cancel != nil {
		return a.cancel(ctx)
	}
	return hypervisor.Unsupported(a.ID().Ref(), hypervisor.TaskCancel, hypervisor.ReasonPlatform,
		"another Client does this work and libvirt has nothing to stop it with: cancel it there")
}
