package fake

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// composed are the operations that package hypervisor handles by itself or
// composes from others. No call of that name reaches the platform.
var composed = map[op.Name]string{
	op.ClientOpen:   "use client.login",
	op.ClientClose:  "nothing is sent for it",
	op.ClientAs:     "nothing is sent for it",
	op.HostEvacuate: "use vm.migrate",
}

// called returns the operation for which the portable half makes a driver
// call that serves several operations. It is the first one where this is not
// known.
func called(ctx context.Context, names ...op.Name) op.Name {
	if name, _ := hypervisor.OperationOf(ctx); slices.Contains(names, name) {
		return name
	}
	return names[0]
}

// isSent returns an error for a name or pattern that matches no call to the
// platform.
func isSent(pattern op.Name) error {
	names, err := hypervisor.MatchOperations(pattern)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(names, func(n op.Name) bool { return composed[n] == "" }); i < 0 {
		return fmt.Errorf("%q never reaches the platform: %s", pattern, composed[names[0]])
	}
	return nil
}

// takesTime returns an error for a name or pattern that matches no operation
// with a task.
func takesTime(pattern op.Name) error {
	if err := isSent(pattern); err != nil {
		return err
	}
	for _, o := range hypervisor.Operations() {
		if ok, _ := path.Match(string(pattern), string(o.Name)); ok && (o.Task || o.Name == op.GuestExec) {
			return nil
		}
	}
	return fmt.Errorf("%q takes no time: only operations with a task, and %s, do", pattern, op.GuestExec)
}

func (c *Config) checkNames() error {
	for name := range c.Delays {
		if err := takesTime(name); err != nil {
			return fmt.Errorf("Config.Delays: %w", err)
		}
	}
	for _, name := range c.Uncancelable {
		if err := takesTime(name); err != nil {
			return fmt.Errorf("Config.Uncancelable: %w", err)
		}
	}
	return nil
}

// setDelay resolves patterns at once, so that the last call takes effect.
func (b *Backend) setDelay(pattern op.Name, d time.Duration) {
	if pattern == "*" {
		b.delays["*"] = d
		return
	}
	names, _ := hypervisor.MatchOperations(pattern) // it was checked already
	for _, n := range names {
		b.delays[n] = d
	}
}

func (b *Backend) delay(name op.Name) time.Duration {
	if d, ok := b.delays[name]; ok {
		return d
	}
	return b.delays["*"]
}
