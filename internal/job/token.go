package job

import (
	"context"
	"slices"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Tokens serializes the calls of this process that have the same token. The
// zero value is ready for use.
type Tokens struct {
	mu    sync.Mutex
	calls map[string]*call
	begun []string // tokens of calls that started work, oldest first
}

// call is what is known about a token.
type call struct {
	users int
	turn  chan struct{} // a token: its holder may look and begin
	task  hypervisor.TaskID
}

// keepTokens is the number of tokens that are remembered. Work of an older
// token that is not yet found on the platform would be started again.
const keepTokens = 4096

// Finder finds tasks; a hypervisor.Driver is one.
type Finder interface {
	Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error)
	ErrorKind(err error) hypervisor.Kind
}

// Once starts work, or finds work of the same token that is under way. A call
// with the token waits until the previous one has started.
func (t *Tokens) Once(ctx context.Context, token string, f Finder, begin func() (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	if token == "" {
		return begin()
	}
	c := t.enter(token)
	defer t.leave(token, c)
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.turn <- struct{}{} }()
	if w, err := underWay(ctx, f, c.task); w != nil || err != nil {
		return w, err
	}
	w, err := begin()
	if err == nil {
		c.task = w.ID()
	}
	return w, err
}

// underWay returns a task that has not ended, or nil. The result of an ended
// task carries the token.
func underWay(ctx context.Context, f Finder, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if id == "" {
		return nil, nil
	}
	t, err := f.Task(ctx, id)
	var s hypervisor.TaskState
	if err == nil {
		s, err = t.Next(ctx)
	}
	if err == nil && !s.Done {
		t, err = f.Task(ctx, id) // again: its first state is the present one
	}
	switch {
	case err != nil && (hypervisor.KindOf(err) == hypervisor.ErrNotFound || f.ErrorKind(err) == hypervisor.ErrNotFound), s.Done:
		return nil, nil
	}
	return t, err
}

func (t *Tokens) enter(token string) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.calls[token]
	if c == nil {
		if t.calls == nil {
			t.calls = map[string]*call{}
		}
		c = &call{turn: make(chan struct{}, 1)}
		c.turn <- struct{}{}
		t.calls[token] = c
	}
	c.users++
	return c
}

func (t *Tokens) leave(token string, c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.users--; c.users > 0 {
		return
	}
	if c.task == "" {
		delete(t.calls, token)
		return
	}
	if !slices.Contains(t.begun, token) {
		t.begun = append(t.begun, token)
	}
	if len(t.begun) > keepTokens {
		if old := t.begun[0]; t.calls[old] != nil && t.calls[old].users == 0 {
			delete(t.calls, old)
		}
		t.begun = t.begun[1:]
	}
}
