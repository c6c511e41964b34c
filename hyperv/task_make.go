package hyperv

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Work that makes a machine is composed of many jobs, and runs in the process
// that started it. Another process can follow it nevertheless: the task's ID
// is kept in the notes of the new machine.

// unseen is the time for which work that shows nothing yet is assumed to
// exist, and stale is the time for which a machine may stay unfinished.
const (
	unseen = 15 * time.Minute
	stale  = 2 * time.Hour
)

// makeTask makes the ID of a task that makes a machine on a host.
func (d *driver) makeTask(h *host) hypervisor.TaskID {
	return hypervisor.TaskID(fmt.Sprintf("make:%s|%s%s|%d", h.id, d.nonce, randomHex(4), time.Now().Unix()))
}

// foreignMake follows work of another process that makes a machine.
type foreignMake struct {
	d     *driver
	h     *host
	s     cim.Session
	id    hypervisor.TaskID
	began time.Time
	steps int
	ended bool            // it was this Client's, which has forgotten how it ended
	found hypervisor.VMID // while it is unfinished
}

// findMake finds such a task. It returns nil if the ID is of another form.
func (d *driver) findMake(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	rest, ok := strings.CutPrefix(string(id), "make:")
	parts := strings.Split(rest, "|")
	if !ok || len(parts) != 3 {
		return nil, nil
	}
	unix, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, nil
	}
	h, err := d.host(hypervisor.HostID(parts[0]))
	if err != nil {
		return nil, err
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	w := &foreignMake{d: d, h: h, s: s, id: id, began: time.Unix(unix, 0), ended: strings.HasPrefix(parts[1], d.nonce)}
	st, err := w.look(ctx)
	if err != nil {
		return nil, err
	}
	if w.found == "" && !st.Done && (w.ended || time.Since(w.began) > unseen) {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no machine reports this task any more")
	}
	return &watch{id: id, look: w.next, cancel: func(context.Context) error {
		return hypervisor.Errorf(hypervisor.ErrUnsupported, id.Ref(), "another process does this work: cancel it there")
	}}, nil
}

// look reads the present state from the notes of the host's machines.
func (w *foreignMake) look(ctx context.Context) (hypervisor.TaskState, error) {
	inv, err := readInventory(ctx, w.h, w.s, []int{rowSettings, rowSystems}, nil)
	if err != nil {
		return hypervisor.TaskState{}, err
	}
	for id, r := range inv.byID {
		if r.settings == nil {
			continue
		}
		n := parseNotes(r.settings.Strs("Notes"))
		if n.Task != string(w.id) {
			continue
		}
		ref := hypervisor.VMID(id).Ref()
		planned := r.settings.Str("VirtualSystemType") == typePlanned && !n.Template
		switch {
		case !planned && !n.Unfinished:
			return hypervisor.TaskState{Done: true, Fraction: 1, Result: ref}, nil
		case w.ended || time.Since(w.began) > stale:
			return hypervisor.TaskState{Done: true, Leftover: []hypervisor.Ref{ref},
				Err: hypervisor.Errorf(hypervisor.ErrUnknown, ref, "the process that made this machine did not finish it")}, nil
		}
		w.found = hypervisor.VMID(id)
		return hypervisor.TaskState{Fraction: -1, Phase: "unfinished"}, nil
	}
	switch {
	case w.found != "":
		return hypervisor.TaskState{Done: true, Err: hypervisor.Errorf(hypervisor.ErrCanceled, w.id.Ref(), "the work failed or was cancelled; what it had made is gone")}, nil
	case time.Since(w.began) > unseen:
		return hypervisor.TaskState{Done: true, Err: hypervisor.Errorf(hypervisor.ErrNotFound, w.id.Ref(), "the work made nothing")}, nil
	}
	return hypervisor.TaskState{Fraction: -1, Phase: "beginning"}, nil
}

// next waits, except for the first time, and looks.
func (w *foreignMake) next(ctx context.Context) (hypervisor.TaskState, error) {
	if w.steps++; w.steps > 1 {
		if err := w.d.poll.Next(ctx, w.steps-2); err != nil {
			return hypervisor.TaskState{}, err
		}
	}
	return w.look(ctx)
}
