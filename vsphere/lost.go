package vsphere

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// launch starts a task. When the connection breaks before the answer arrives,
// the server may have started the task all the same. The call is not sent
// again; the server's list of recent tasks is searched instead. hint is the
// end of the task's descriptionId ("clone" of "VirtualMachine.clone"). An
// empty entity means any one: that of a disk manager's task is not documented.
func (d *driver) launch(ctx context.Context, entity ref, hint string, mine func(context.Context, types.TaskInfo) (bool, error), call func() (ref, error)) (ref, error) {
	began, since := time.Now(), time.Time{}
	self, err := job.Call[ref]{
		Send: func(context.Context) (ref, error) { return call() },
		Lost: func(err error) bool { return lost(ctx, err) },
		Goal: func(ctx context.Context) (ref, bool, error) {
			for wait := 100 * time.Millisecond; ; wait *= 2 {
				self, found, err := ref{}, false, error(nil)
				if since.IsZero() {
					since, err = d.serverTime(ctx, began)
				}
				if err == nil {
					self, found, err = d.search4task(ctx, entity, hint, since, mine)
				}
				if kindOf(err) != hypervisor.ErrUnavailable || wait > searchLimit {
					return self, found, err
				}
				// What broke the call's connection may break these too.
				if err := pause(ctx, wait); err != nil {
					return ref{}, false, err
				}
			}
		},
	}.Do(ctx)
	if err == nil {
		d.launched.add(self)
	}
	return self, err
}

// taskBook has the last tasks that this Client launched: none of them is the
// one of a later call.
type taskBook struct {
	mu   sync.Mutex
	last [512]ref
	n    int
}

func (b *taskBook) add(task ref) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[b.n%len(b.last)] = task
	b.n++
}

func (b *taskBook) has(task ref) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.last[:], task)
}

// searchLimit bounds the pauses between searches for a task.
const searchLimit = 2 * time.Second

// launchMachine is launch for a task that makes a machine with the mark call.
// If nobody can say whether the task was started, the error names the machine.
func (d *driver) launchMachine(ctx context.Context, entity ref, hint, call, name string, send func() (ref, error)) (ref, error) {
	self, err := d.launch(ctx, entity, hint, d.made(call), send)
	if !unsure(ctx, err) {
		return self, err
	}
	left := d.leftBy(ctx, call, name)
	if len(left) == 0 {
		left = []hypervisor.Ref{{Kind: hypervisor.ObjectVM, Name: name}}
	}
	return self, leaving(err, left...)
}

// unsure reports whether an error leaves open if a task was started.
func unsure(ctx context.Context, err error) bool {
	return err != nil && (errors.Is(err, job.ErrNotKnown) || ctx.Err() != nil)
}

// leaving adds to an error what the call may have left behind.
func leaving(err error, left ...hypervisor.Ref) error {
	out := hypervisor.Error{Kind: kindOf(err)}
	if e := (*hypervisor.Error)(nil); errors.As(err, &e) {
		out = *e
	}
	out.Err, out.Leftover = err, left
	return &out
}

// lost reports whether an error says that a call's answer was lost.
func lost(ctx context.Context, err error) bool {
	var e *hypervisor.Error
	return errors.As(err, &e) && e.Kind == hypervisor.ErrUnavailable && !e.Unsent && ctx.Err() == nil
}

// rounding is the largest difference between the server's two times, that of
// the call and that of the task, which comes from their number of digits. It
// must be short: a longer one would accept the task of the previous call for
// this one.
const rounding = 2 * time.Millisecond

// search4task returns the task of the entity that was queued since a time of
// the server's clock, if it is the only one of its kind.
func (d *driver) search4task(ctx context.Context, entity ref, hint string, since time.Time, mine func(context.Context, types.TaskInfo) (bool, error)) (ref, bool, error) {
	list, err := d.all(ctx, hopSpec(*d.vc.ServiceContent.TaskManager, "recentTask", "Task", taskPaths))
	if err != nil {
		return ref{}, false, err
	}
	var found []ref
	for _, o := range list {
		t := get[types.TaskInfo](props(o), "info")
		if entity != (ref{}) && (t.Entity == nil || *t.Entity != entity) || d.launched.has(o.Obj) || t.QueueTime.Before(since) || !strings.HasSuffix(strings.ToLower(t.DescriptionId), "."+strings.ToLower(hint)) {
			continue
		}
		if mine != nil {
			if ok, err := mine(ctx, t); err != nil {
				return ref{}, false, err
			} else if !ok {
				continue
			}
		}
		found = append(found, o.Obj)
	}
	if len(found) > 1 {
		return ref{}, false, fmt.Errorf("%d such tasks were begun at once", len(found))
	}
	if len(found) == 0 {
		return ref{}, false, nil
	}
	return found[0], true, nil
}

// serverTime is a time of this computer by the server's clock, or a little
// earlier: the server's clock less the time that has passed here since then.
// The quickest of ten answers makes it exact, since an earlier time might be
// that of an older task.
func (d *driver) serverTime(ctx context.Context, began time.Time) (out time.Time, err error) {
	for n := range 10 {
		sent := time.Now()
		now, rerr := methods.GetCurrentTime(ctx, d.rt)
		if rerr != nil {
			if err = rerr; n > 0 {
				break
			}
			continue
		}
		if at := now.Add(-time.Since(began)); at.After(out) {
			out = at
		}
		if time.Since(sent) < rounding {
			break
		}
	}
	if out.IsZero() {
		return out, err
	}
	return out.Add(-rounding), nil
}

// callKey marks the object that one call makes, so that it can be
// distinguished from objects that others make at the same place and time.
const callKey = "anyvisor.call"

// made returns a function that reports whether a task made the machine of a
// call. It waits for the task.
func (d *driver) made(call string) func(context.Context, types.TaskInfo) (bool, error) {
	return func(ctx context.Context, t types.TaskInfo) (bool, error) {
		var vm ref
		if ok, err := d.succeeded(ctx, t.Task, &vm); err != nil || !ok || vm == (ref{}) {
			return false, err
		}
		p, err := d.one(ctx, vm, `config.extraConfig["`+callKey+`"]`)
		if isNotFound(err) {
			return false, nil
		}
		return err == nil && optionValue(p[`config.extraConfig["`+callKey+`"]`]) == call, err
	}
}

// leftBy names the machines that a failed call made and left.
func (d *driver) leftBy(ctx context.Context, call, name string) []hypervisor.Ref {
	path := `config.extraConfig["` + callKey + `"]`
	refs, err := d.matching(ctx, path, func(v any) bool { return optionValue(v) == call })
	if err != nil { // unknown: name what may exist
		return []hypervisor.Ref{{Kind: hypervisor.ObjectVM, Name: name}}
	}
	var out []hypervisor.Ref
	for _, r := range refs {
		out = append(out, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: r.Value, Name: name})
	}
	return out
}

// startReconfigure starts a reconfiguration.
func (d *driver) startReconfigure(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec) (ref, error) {
	return d.launch(ctx, vmRef(id), "reconfigure", nil, func() (ref, error) {
		return taskOf(methods.ReconfigVM_Task(ctx, d.rt, &types.ReconfigVM_Task{This: vmRef(id), Spec: spec}))
	})
}

// launchDisk is launch for a task of the disk manager. Other clients may start
// such tasks at the same time, and a task does not name its disk: this call's
// task is one that succeeded and after which the disk is as wanted. is gets
// nil for a disk that is not there.
func (d *driver) launchDisk(ctx context.Context, id hypervisor.VolumeID, hint string, is func(*hypervisor.VolumeInfo) bool, call func() (ref, error)) (ref, error) {
	mine := func(ctx context.Context, t types.TaskInfo) (bool, error) {
		if ok, err := d.succeeded(ctx, t.Task, nil); err != nil || !ok {
			return false, err
		}
		store, rel, _ := splitVolume(id)
		all, err := d.search(ctx, store, path.Dir(rel), path.Base(rel))
		if err != nil && !isNotFound(err) {
			return false, err
		}
		if i := slices.IndexFunc(all, func(v hypervisor.VolumeInfo) bool { return v.ID == id }); i >= 0 {
			return is(&all[i]), nil
		}
		return is(nil), nil
	}
	return d.launch(ctx, ref{}, hint, mine, call)
}

// launchNewDisk is launchDisk for a task that makes a disk. If nobody can say
// whether it was started, the error names the disk without its ID, since it may
// be another one's.
func (d *driver) launchNewDisk(ctx context.Context, id hypervisor.VolumeID, hint string, call func() (ref, error)) (ref, error) {
	self, err := d.launchDisk(ctx, id, hint, func(v *hypervisor.VolumeInfo) bool { return v != nil }, call)
	if unsure(ctx, err) {
		err = leaving(err, hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: strings.TrimSuffix(path.Base(string(id)), ".vmdk")})
	}
	return self, err
}

// launchPower is launch for a task that brings the machine into a state. A
// task that succeeded while the machine is in another state is an older one,
// of another client.
func (d *driver) launchPower(ctx context.Context, id hypervisor.VMID, hint string, state types.VirtualMachinePowerState, call func() (ref, error)) (ref, error) {
	mine := func(ctx context.Context, t types.TaskInfo) (bool, error) {
		if ok, err := d.succeeded(ctx, t.Task, nil); err != nil || !ok {
			return err == nil, err
		}
		p, err := d.one(ctx, vmRef(id), "runtime.powerState")
		return err == nil && get[types.VirtualMachinePowerState](p, "runtime.powerState") == state, err
	}
	return d.launch(ctx, vmRef(id), hint, mine, call)
}

// succeeded waits for a task, and reports whether it succeeded. Its result goes
// to made, which may be nil.
func (d *driver) succeeded(ctx context.Context, task ref, made *ref) (bool, error) {
	info, err := d.await(ctx, task)
	if info.State == types.TaskInfoStateError {
		return false, nil
	}
	if vm, ok := info.Result.(ref); ok && made != nil {
		*made = vm
	}
	return err == nil, err
}
