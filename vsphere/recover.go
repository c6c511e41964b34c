package vsphere

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// launch starts a task. When the connection breaks before the answer is here,
// the server may have begun all the same: the call is not sent again, the
// server's list of recent tasks is searched instead. hint is the end of the
// task's descriptionId ("clone" of "VirtualMachine.clone").
func (d *driver) launch(ctx context.Context, entity ref, hint string, mine func(context.Context, types.TaskInfo) bool, call func() (ref, error)) (ref, error) {
	began := time.Now()
	self, err := call()
	var e *hypervisor.Error
	if err == nil || !errors.As(err, &e) || e.Kind != hypervisor.KindUnavailable || e.Unsent || ctx.Err() != nil {
		return self, err
	}
	if found, ok := d.search4task(ctx, entity, hint, began, mine); ok {
		return found, nil
	}
	return ref{}, err
}

// search4task returns the task of the entity that was queued since the call
// was sent, by the server's clock, and that is the only one of its kind.
func (d *driver) search4task(ctx context.Context, entity ref, hint string, began time.Time, mine func(context.Context, types.TaskInfo) bool) (ref, bool) {
	now, err := methods.GetCurrentTime(ctx, d.rt)
	if err != nil {
		if now, err = methods.GetCurrentTime(ctx, d.rt); err != nil {
			return ref{}, false
		}
	}
	since := now.Add(-time.Since(began)).Add(-time.Second)
	list, err := d.all(ctx, hopSpec(*d.vc.ServiceContent.TaskManager, "recentTask", "Task", taskPaths))
	if err != nil {
		return ref{}, false
	}
	var found []ref
	for _, o := range list {
		t := get[types.TaskInfo](props(o), "info")
		if t.Entity == nil || *t.Entity != entity || t.QueueTime.Before(since) || !strings.HasSuffix(strings.ToLower(t.DescriptionId), "."+strings.ToLower(hint)) {
			continue
		}
		if mine != nil && !mine(ctx, t) {
			continue
		}
		found = append(found, o.Obj)
	}
	if len(found) != 1 {
		return ref{}, false
	}
	return found[0], true
}

// callKey marks what one call makes, so that it can be told from what others
// make at the same place and time.
const callKey = "anyvisor.call"

// made tells whether a task made the machine of a call. It waits for the task.
func (d *driver) made(call string) func(context.Context, types.TaskInfo) bool {
	return func(ctx context.Context, t types.TaskInfo) bool {
		info, err := d.await(ctx, t.Task)
		if err != nil {
			return false
		}
		vm, ok := info.Result.(ref)
		if !ok {
			return false
		}
		p, err := d.one(ctx, vm, `config.extraConfig["`+callKey+`"]`)
		return err == nil && optionValue(p[`config.extraConfig["`+callKey+`"]`]) == call
	}
}

// leftBy names the machines that a failed call made and left.
func (d *driver) leftBy(ctx context.Context, call, name string) []hypervisor.Ref {
	path := `config.extraConfig["` + callKey + `"]`
	refs, err := d.matching(ctx, path, func(v any) bool { return optionValue(v) == call })
	if err != nil { // nobody knows: name what there may be
		return []hypervisor.Ref{{Kind: hypervisor.KindOfVM, Name: name}}
	}
	var out []hypervisor.Ref
	for _, r := range refs {
		out = append(out, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: r.Value, Name: name})
	}
	return out
}

// startReconfigure starts a reconfiguration.
func (d *driver) startReconfigure(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec) (ref, error) {
	return d.launch(ctx, vmRef(id), "reconfigure", nil, func() (ref, error) {
		res, err := methods.ReconfigVM_Task(ctx, d.rt, &types.ReconfigVM_Task{This: vmRef(id), Spec: spec})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}
