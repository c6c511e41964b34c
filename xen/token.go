package xen

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Keys in other_config, in front of a token. makingKey is on a machine that
// VM.create made and that is not whole yet; its value is the reference of the
// maker's task. cloningKey is on what is being copied, and as XAPI copies
// other_config along, on the copy from its first moment; its value is the
// copy's name.
const (
	makingKey  = "anyvisor:making:"
	cloningKey = "anyvisor:cloning:"
)

// found is what a token leads to.
type found struct {
	whole  *hypervisor.Ref // a machine that is whole
	making xapi.Ref        // one that is not
	maker  xapi.Ref        // the task of who makes it
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
			f.whole = &hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
			return f, nil
		}
		if m, ok := v.Other[makingKey+token]; ok {
			f.making, f.maker = ref, xapi.Ref(m)
		}
	}
	return f, nil
}

// makerLease is how long a maker that works on nothing in the pool counts as
// alive: XAPI doesn't tell whether the process behind a task is.
var makerLease = 30 * time.Second

// takeOver waits until nobody works on a token's unfinished machine any more.
// Then the machine may be whole, or gone, or there for the caller to go on
// with.
func (j *job) takeOver(ctx context.Context) (whole *hypervisor.Ref, half xapi.Ref, err error) {
	j.report(hypervisor.TaskState{Phase: "waiting for an earlier call with this token"})
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
func (j *job) clearUp(ctx context.Context, maker xapi.Ref) error {
	var all map[xapi.Ref]struct {
		VBDs  []xapi.Ref        `json:"VBDs"`
		Other map[string]string `json:"other_config"`
	}
	if err := j.d.c.Call(ctx, &all, "VDI.get_all_records"); err != nil {
		return err
	}
	for ref, v := range all {
		if len(v.VBDs) == 0 && strings.HasPrefix(v.Other[madeKey], string(maker)+"/") {
			if err := j.d.destroy(ctx, "VDI", ref); err != nil && kindOf(err) != hypervisor.KindNotFound {
				return err
			}
		}
	}
	return nil
}

// tokens keeps calls of this process with the same token apart.
type tokens struct {
	mu  sync.Mutex
	all map[string]*tokenUse
}

type tokenUse struct {
	users int
	turn  chan struct{} // a token: who holds it may look and begin
	task  hypervisor.TaskID
}

func (t *tokens) enter(token string) *tokenUse {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.all[token]
	if u == nil {
		if t.all == nil {
			t.all = map[string]*tokenUse{}
		}
		u = &tokenUse{turn: make(chan struct{}, 1)}
		u.turn <- struct{}{}
		t.all[token] = u
	}
	u.users++
	return u
}

func (t *tokens) leave(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.all[token]; u != nil {
		if u.users--; u.users == 0 {
			delete(t.all, token)
		}
	}
}

// once begins work, or finds the work of the same token that is under way in
// this process.
func (d *driver) once(ctx context.Context, token string, begin func() (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	if token == "" {
		return begin()
	}
	u := d.tokens.enter(token)
	defer d.tokens.leave(token)
	select {
	case <-u.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { u.turn <- struct{}{} }()
	if u.task != "" {
		if t, ok := d.group.Find(u.task); ok {
			return t, nil
		}
	}
	t, err := begin()
	if err == nil {
		u.task = t.ID()
	}
	return t, err
}
