package hypervisor_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// stub is the least driver: the core interface and a few abilities whose
// answers a test sets.
type stub struct {
	mu      sync.Mutex
	vms     []hypervisor.VMInfo
	listErr []error // one for each call, then none
	lists   int
	support map[capability.Name]hypervisor.Support
	group   hypervisor.TaskGroup
	start   func(ctx context.Context) (hypervisor.DriverTask, error) // of Power
	starts  int
	closed  atomic.Int64
	hang    chan struct{} // keeps Close, if set
}

var errNative = errors.New("native trouble")

func (s *stub) Describe() hypervisor.Description {
	return hypervisor.Description{Driver: "stub", Product: "Stub", Version: "0", Endpoint: "stub://"}
}

func (s *stub) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hypervisor.CountCalls(ctx, 1)
	s.lists++
	if len(s.listErr) > 0 {
		err := s.listErr[0]
		s.listErr = s.listErr[1:]
		if err != nil {
			return hypervisor.VMPage{}, err
		}
	}
	var p hypervisor.VMPage
	for _, v := range s.vms {
		if v.Template == q.Templates {
			p.VMs = append(p.VMs, v)
		}
	}
	return p, nil
}

func (s *stub) GetVM(_ context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		if v.ID == id {
			return v, nil
		}
	}
	return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
}

func (s *stub) Supports(_ context.Context, k capability.Name, _ hypervisor.Ref) (hypervisor.Support, error) {
	return s.support[k], nil
}

func (s *stub) Task(_ context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := s.group.Find(id); ok {
		return t, nil
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such task")
}

func (s *stub) ErrorKind(err error) hypervisor.Kind {
	if errors.Is(err, errNative) {
		return hypervisor.ErrUnavailable
	}
	return hypervisor.ErrUnknown
}

func (s *stub) As(_ context.Context, on hypervisor.Ref, target any) error {
	if t, ok := target.(**stub); ok {
		*t = s
		return nil
	}
	return hypervisor.NoNative(on, target)
}

func (s *stub) Close() error {
	s.closed.Add(1)
	err := s.group.Close()
	if s.hang != nil {
		<-s.hang
	}
	return err
}

func (s *stub) Power(ctx context.Context, _ hypervisor.VMID, _ hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	s.mu.Lock()
	s.starts++
	s.mu.Unlock()
	return s.start(ctx)
}

// slow is work that takes d and honours its cancellation.
func (s *stub) slow(id hypervisor.TaskID, d time.Duration) func(context.Context) (hypervisor.DriverTask, error) {
	return func(ctx context.Context) (hypervisor.DriverTask, error) {
		return s.group.Go(ctx, id, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
			report(hypervisor.TaskState{Fraction: 0.5, Phase: "half", Notes: []string{"a note"}})
			select {
			case <-time.After(d):
				return hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: "1"}}
			case <-ctx.Done():
				return hypervisor.TaskState{Err: ctx.Err(), Leftover: []hypervisor.Ref{{Kind: hypervisor.ObjectVolume, ID: "half"}}}
			}
		})
	}
}
