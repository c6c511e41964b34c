package hypervisortest

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func describeInSilence(e *env) {
	if !e.apart() {
		return
	}
	e.inForms(func(e *env, cut bool) {
		want := e.c.Describe()
		err := e.inSilence(cut, "Describe", func(context.Context) error {
			if got := e.c.Describe(); got != want {
				e.Errorf("Describe says %+v, and %+v before", got, want)
			}
			return nil
		})
		e.ok(err, "Describe")
		e.goesOn()
	})
}

func openInSilence(e *env) {
	if !e.apart() {
		return
	}
	e.inForms(func(e *env, cut bool) {
		var late *hypervisor.Client // of a driver whose Open makes no call
		e.gaveUp(op.ClientOpen, e.inSilence(cut, "Open", func(ctx context.Context) error {
			c, err := e.Reopen(ctx)
			if err == nil {
				late, err = c, list(ctx, c)
			}
			return err
		}))
		if late != nil {
			e.ok(late.Close(), "Close")
		}
		c, err := e.Reopen(e.ctx)
		e.ok(err, "Reopen after the silence")
		e.ok(list(e.ctx, c), "VMs of the new Client")
		e.ok(c.Close(), "Close of the new Client")
		e.goesOn()
	})
}

// closeInSilence closes Clients of its own while one of their calls waits.
func closeInSilence(e *env) {
	if !e.apart() {
		return
	}
	e.inForms(func(e *env, cut bool) {
		c := e.other()
		e.Break.Silence(cut)
		defer e.Break.Heal()
		waiting, ctx := make(chan error, 1), e.ctx
		go func() { waiting <- list(ctx, c) }()
		time.Sleep(patience / 4)
		took, closed := stopwatch(), make(chan error, 1)
		go func() { closed <- c.Close() }()
		select {
		case err := <-closed:
			if d := took(); d > closeLimit {
				e.Errorf("Close took %v at a silent server", d)
			}
			if err != nil && !errors.Is(err, hypervisor.ErrTimeout) {
				e.Errorf("Close at a silent server: %v", err)
			}
		case <-time.After(2 * closeLimit):
			e.Errorf("Close has not returned %v after its start", took())
		}
		select {
		case err := <-waiting:
			e.kind(err, hypervisor.ErrClosed, "a call under way at Close")
		case <-time.After(soon):
			e.Errorf("a call is still waiting %v after Close", soon)
		}
		e.Break.Heal()
		e.goesOn()
	})
}
