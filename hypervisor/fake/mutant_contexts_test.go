package fake_test

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// endless is ctx without its end.
func endless(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func gaveUp(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// contextMutants don't end with the context of a call, or don't end well.
func contextMutants() []mutant {
	return []mutant{
		{name: "a read heeds no context", area: "contexts/vm.info", finding: "heeds no context", tell: func(l *lie) {
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) { return l.Driver.GetVM(endless(ctx), id) }
		}},
		{name: "a start heeds no context", area: "contexts/vm.start", finding: "heeds no context", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				return l.Driver.Power(endless(ctx), id, r)
			}
		}},
		{name: "a lock is held over the network", area: "contexts/vm.info", finding: "vm.info heeds no context", tell: func(l *lie) {
			lock := make(chan struct{}, 1)
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				lock <- struct{}{}
				defer func() { <-lock }()
				return l.Driver.ListVMs(ctx, q)
			}
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				lock <- struct{}{}
				defer func() { <-lock }()
				return l.Driver.GetVM(ctx, id)
			}
		}},
		{name: "the server is blamed for a context", area: "contexts/snapshot.list", finding: "as if the caller had not given up", tell: func(l *lie) {
			l.snaps = func(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
				s, err := l.Driver.Snapshots(ctx, id)
				if gaveUp(err) {
					err = hypervisor.Errorf(hypervisor.ErrUnavailable, id.Ref(), "no answer: %w", err)
				}
				return s, err
			}
		}},
		{name: "a context's end is an error of its own", area: "contexts/disk.grow", finding: "want that its context ended", tell: func(l *lie) {
			l.growDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, n int64) (dtask, error) {
				t, err := l.Driver.GrowDisk(ctx, id, d, n)
				if gaveUp(err) {
					err = errors.New("timeout")
				}
				return t, err
			}
		}},
		{name: "silence is an answer", area: "contexts/device.list", finding: "succeeded at a silent server", tell: func(l *lie) {
			l.devices = func(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
				d, err := l.Driver.Devices(ctx, f)
				if gaveUp(err) {
					err = nil
				}
				return d, err
			}
		}},
		{name: "what was given up is done later", area: "contexts/vm.create", finding: "which is neither as before", tell: func(l *lie) {
			var late atomic.Pointer[hypervisor.VMSpec]
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				t, err := l.Driver.CreateVM(ctx, s)
				if gaveUp(err) {
					late.Store(&s)
				}
				return t, err
			}
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				p, err := l.Driver.ListVMs(ctx, q)
				if s := late.Swap(nil); s != nil {
					must(l.Driver.CreateVM(bg, *s))
				}
				return p, err
			}
		}},
		{name: "a driver is of no use after a silence", area: "contexts/vm.list", finding: "after the silence", tell: func(l *lie) {
			var over atomic.Bool
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				if over.Load() {
					return hypervisor.VMPage{}, errors.New("the connection is in a state unknown")
				}
				p, err := l.Driver.ListVMs(ctx, q)
				if gaveUp(err) {
					over.Store(true)
				}
				return p, err
			}
		}},
		{name: "Close asks the platform first", area: "contexts/client.close", finding: "still waiting 1s after Close", tell: func(l *lie) {
			l.closed = func() error {
				_, err := l.Driver.ListVMs(bg, hypervisor.VMQuery{})
				return errors.Join(err, l.Driver.Close())
			}
		}},
	}
}
