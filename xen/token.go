package xen

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Keys in other_config that precede a token. makingKey is on a machine that
// VM.create made and that is not complete yet; its value is the reference of
// the maker's task. cloningKey is on the source of a copy. As XAPI copies
// other_config too, the copy has it from its first moment. Its value is the
// copy's name.
const (
	makingKey  = "anyvisor:making:"
	cloningKey = "anyvisor:cloning:"
)

// found is the result of looking for a token.
type found struct {
	whole  *hypervisor.Ref // a complete machine
	making xapi.Ref        // an incomplete one
	maker  xapi.Ref        // the task of its maker
}

func (f found) done() hypervisor.DriverTask {
	if f.whole == nil {
		return nil
	}
	return done(*f.whole)
}

// lookFor finds the machine of a token.
func (d *driver) lookFor(ctx context.Context, token string) (found, error) {
	var f found
	if token == "" {
		return f, nil
	}
	var all map[xapi.Ref]vmRec
	if err := d.c.Call(ctx, &all, "VM.get_all_records"); err != nil {
		return f, err
	}
	for ref, v := range all {
		if v.IsSnapshot {
			continue
		}
		if v.Other[tokenKey] == token {
			f.whole = &hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
			return f, nil
		}
		if m, ok := v.Other[makingKey+token]; ok {
			f.making, f.maker = ref, xapi.Ref(m)
		}
	}
	return f, nil
}

// makerLease is the time for which a maker that works on nothing in the pool
// counts as alive: XAPI doesn't report whether the process behind a task is
// alive.
var makerLease = 30 * time.Second

// takeOver waits until nobody works on a token's unfinished machine any more.
// Then the machine may be complete, or gone, or ready for the caller to
// continue with.
func (j *poolJob) takeOver(ctx context.Context) (whole *hypervisor.Ref, half xapi.Ref, err error) {
	j.Report(hypervisor.TaskState{Phase: "waiting for an earlier call with this token"})
	for {
		f, err := j.d.lookFor(ctx, j.token)
		if err != nil || f.whole != nil || f.making == "" {
			return f.whole, "", err
		}
		var tasks map[xapi.Ref]xapi.Task
		if err := j.d.c.Call(ctx, &tasks, "task.get_all_records"); err != nil {
			return nil, "", err
		}
		waited := false
		for ref, t := range tasks {
			if t.Other[tokenKey] == j.token && !t.Ended() {
				if err := j.d.ended(ctx, ref); err != nil {
					return nil, "", err
				}
				waited = true
			}
		}
		if t, ok := tasks[f.maker]; ok && !t.Ended() {
			limited, stop := context.WithTimeout(ctx, makerLease)
			err := j.d.ended(limited, f.maker)
			stop()
			if ctx.Err() != nil || err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return nil, "", errors.Join(ctx.Err(), err)
			}
			if err == nil || waited {
				continue
			}
		}
		return nil, f.making, j.clearUp(ctx, f.maker)
	}
}

// clearUp destroys the images that a maker left without a machine.
func (j *poolJob) clearUp(ctx context.Context, maker xapi.Ref) error {
	var all map[xapi.Ref]struct {
		VBDs  []xapi.Ref        `json:"VBDs"`
		Other map[string]string `json:"other_config"`
	}
	if err := j.d.c.Call(ctx, &all, "VDI.get_all_records"); err != nil {
		return err
	}
	for ref, v := range all {
		if len(v.VBDs) == 0 && strings.HasPrefix(v.Other[madeKey], string(maker)+"/") {
			if err := j.d.destroy(ctx, "VDI", ref); err != nil && kindOf(err) != hypervisor.ErrNotFound {
				return err
			}
		}
	}
	return nil
}
