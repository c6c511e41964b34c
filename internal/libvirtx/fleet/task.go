//go:build cgo

package fleet

import (
	"context"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// PollEvery is how often work that libvirt has no event for is looked at.
const PollEvery = 200 * time.Millisecond

// TaskID makes an ID: "driver:operation:machine:nonce", with more parts for
// migrations, so that another process knows what to look for.
func (f *Fleet) TaskID(op string, id hypervisor.VMID, more ...string) hypervisor.TaskID {
	return hypervisor.TaskID(strings.Join(append([]string{f.platform.Name, op, string(id), libvirtx.Nonce()}, more...), ":"))
}

// SplitTaskID is the opposite.
func (f *Fleet) SplitTaskID(tid hypervisor.TaskID) (op string, id hypervisor.VMID, more []string, ok bool) {
	p := strings.Split(string(tid), ":")
	if len(p) < 4 || p[0] != f.platform.Name || !libvirtx.IsUUID(p[2]) {
		return "", "", nil, false
	}
	return p[1], hypervisor.VMID(p[2]), p[4:], true
}

// Work is what a task does.
type Work = func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState

// Run starts work on a machine in a task of this Client.
func (f *Fleet) Run(ctx context.Context, op string, id hypervisor.VMID, mode Lock, w Work) (hypervisor.DriverTask, error) {
	return f.RunAs(ctx, f.TaskID(op, id), op, id, mode, w)
}

// RunAs is Run with a task ID that was made before.
func (f *Fleet) RunAs(ctx context.Context, tid hypervisor.TaskID, op string, id hypervisor.VMID, mode Lock, w Work) (hypervisor.DriverTask, error) {
	release := func() {}
	if mode != Unlocked {
		var err error
		if release, err = f.Take(ctx, id, op+" (task "+string(tid)+")", mode); err != nil {
			return nil, err
		}
	}
	t, err := f.Tasks.Go(ctx, tid, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		defer release()
		return w(ctx, report)
	})
	if err != nil {
		release()
	}
	return t, err
}

// Simple is Run for work that has no result but an error.
func (f *Fleet) Simple(ctx context.Context, op string, id hypervisor.VMID, mode Lock, w func(ctx context.Context) error) (hypervisor.DriverTask, error) {
	return f.Run(ctx, op, id, mode, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		return hypervisor.TaskState{Err: w(ctx)}
	})
}

// Pause waits, or returns why it can't.
func Pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// Task implements hypervisor.Driver. Creating and cloning are found again
// whoever started them; other work only by its own Client.
func (f *Fleet) Task(ctx context.Context, tid hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := f.Tasks.Find(tid); ok {
		return t, nil
	}
	op, id, _, ok := f.SplitTaskID(tid)
	switch {
	case !ok:
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, tid.Ref(), "no such task")
	case op == "create" || op == "clone":
		return f.findMaking(ctx, tid, id)
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, tid.Ref(), "libvirt keeps no record of this work, and this Client did not start it")
}

// JobTask names the job that libvirt runs on a machine now.
func (f *Fleet) JobTask(dom *libvirt.Domain, uuid string) (hypervisor.TaskID, bool) {
	j, err := dom.GetJobStats(0)
	if err != nil || j.Type == libvirt.DOMAIN_JOB_NONE || j.Type == libvirt.DOMAIN_JOB_COMPLETED {
		return "", false
	}
	op := "job"
	if j.OperationSet && j.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT {
		op = "migrate"
	}
	return hypervisor.TaskID(f.platform.Name + ":" + op + ":" + uuid + ":0"), true
}

// Adopted is work that another Client does: it can be watched, and stopped
// where Stop is set.
type Adopted struct {
	hypervisor.DriverTask
	Stop func(context.Context) error
}

// Cancel implements hypervisor.DriverTask.
func (a Adopted) Cancel(ctx context.Context) error {
	if a.Stop != nil {
		return a.Stop(ctx)
	}
	return hypervisor.Unsupported(a.ID().Ref(), hypervisor.TaskCancel, hypervisor.ReasonPlatform,
		"another Client does this work and libvirt has nothing to stop it with: cancel it there")
}
