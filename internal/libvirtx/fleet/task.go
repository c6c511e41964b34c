//go:build cgo

package fleet

import (
	"context"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// PollEvery is the polling interval for work that has no event in libvirt.
const PollEvery = 200 * time.Millisecond

// TaskID makes an ID: "driver:operation:machine:nonce", with more parts for
// migrations, so that another process knows what to look for.
func (f *Fleet) TaskID(op string, id hypervisor.VMID, more ...string) hypervisor.TaskID {
	return hypervisor.TaskID(strings.Join(append([]string{f.platform.Name, op, string(id), libvirtx.Nonce()}, more...), ":"))
}

// SplitTaskID is the inverse of TaskID.
func (f *Fleet) SplitTaskID(tid hypervisor.TaskID) (op string, id hypervisor.VMID, more []string, ok bool) {
	p := strings.Split(string(tid), ":")
	if len(p) < 4 || p[0] != f.platform.Name || !libvirtx.IsUUID(p[2]) {
		return "", "", nil, false
	}
	return p[1], hypervisor.VMID(p[2]), p[4:], true
}

// Work is the work of a job. It returns the object that it made.
type Work = func(context.Context, *job.Job) (hypervisor.Ref, error)

// Go starts a job.
func (f *Fleet) Go(ctx context.Context, tid hypervisor.TaskID, op string, on hypervisor.Ref, w Work) (hypervisor.DriverTask, error) {
	return job.Go(ctx, &f.Tasks, job.Spec{ID: tid, Op: op, Object: on, Kind: libvirtx.Kind}, w)
}

// Run starts a job on a machine, under its lease unless mode is ShortWork.
func (f *Fleet) Run(ctx context.Context, op string, id hypervisor.VMID, mode Lock, w Work) (hypervisor.DriverTask, error) {
	if mode == ShortWork {
		return f.RunAs(ctx, f.TaskID(op, id), op, id, mode, w)
	}
	return f.RunAs(ctx, f.TaskID(op, id), op, id, mode, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		return f.UnderLease(ctx, j, id, mode, w)
	})
}

// RunAs starts a job on a machine without its lease, and with a task ID that
// was made before.
func (f *Fleet) RunAs(ctx context.Context, tid hypervisor.TaskID, op string, id hypervisor.VMID, mode Lock, w Work) (hypervisor.DriverTask, error) {
	release, err := f.Take(ctx, id, op+" (task "+string(tid)+")", mode)
	if err != nil {
		return nil, err
	}
	return f.Holding(ctx, release, tid, op, id, w)
}

// Holding starts a job that holds a lock, which release gives up.
func (f *Fleet) Holding(ctx context.Context, release func(), tid hypervisor.TaskID, op string, id hypervisor.VMID, w Work) (hypervisor.DriverTask, error) {
	t, err := f.Go(ctx, tid, op, id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		defer release()
		return w(ctx, j)
	})
	if err != nil {
		release()
	}
	return t, err
}

// Simple is like Run, for work that has no result but an error.
func (f *Fleet) Simple(ctx context.Context, op string, id hypervisor.VMID, mode Lock, w func(ctx context.Context) error) (hypervisor.DriverTask, error) {
	return f.Run(ctx, op, id, mode, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) { return hypervisor.Ref{}, w(ctx) })
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
// whoever started them. Other work is found only by its own Client.
func (f *Fleet) Task(ctx context.Context, tid hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := f.Tasks.Find(tid); ok {
		return t, nil
	}
	op, id, _, ok := f.SplitTaskID(tid)
	switch {
	case !ok:
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, tid.Ref(), "no such task")
	case op == "create" || op == "clone":
		return f.findMaking(ctx, tid, id)
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, tid.Ref(), "libvirt keeps no record of this work, and this Client did not start it")
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

// Adopted is work of another Client. It can be watched, and stopped where
// Stop is set.
type Adopted struct {
	hypervisor.DriverTask
	Stop func(context.Context) error
}

// Cancel implements hypervisor.DriverTask.
func (a Adopted) Cancel(ctx context.Context) error {
	if a.Stop != nil {
		return a.Stop(ctx)
	}
	return hypervisor.Unsupported(a.ID().Ref(), capability.TaskCancel, hypervisor.ReasonPlatform,
		"another Client does this work and libvirt has nothing to stop it with: cancel it there")
}
