package fake_test

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// lost reports whether a call failed because its connection broke.
func lost(err error) bool { return hypervisor.KindOf(err) == hypervisor.ErrUnavailable }

// faultMutants lie when a call was broken.
func faultMutants() []mutant {
	text := "half"
	leftover := func(f func(hypervisor.Ref) hypervisor.Ref) func(l *lie) {
		return func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					left := s.Leftover
					s.Leftover = nil
					for _, x := range left {
						if x = f(x); x.ID == "source" {
							x = id.Ref()
						}
						if x.Kind != "" {
							s.Leftover = append(s.Leftover, x)
						}
					}
					return s
				})
			}
		}
	}
	return []mutant{
		{name: "a lost answer is an unknown error", area: "faults/vm.start", finding: "want unavailable", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				t, err := l.Driver.Power(ctx, id, r)
				if lost(err) {
					err = errors.New("EOF")
				}
				return t, err
			}
		}},
		{name: "a lost answer is success", area: "faults/vm.create-without-token", finding: "it succeeded, but there is", tell: func(l *lie) {
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				t, err := l.Driver.CreateVM(ctx, s)
				if lost(err) {
					return did(hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: "made"})
				}
				return t, err
			}
		}},
		{name: "a call that never arrived is done later", area: "faults/vm.create-without-token", finding: "after the same again there is", tell: func(l *lie) {
			var late *hypervisor.VMSpec
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				t, err := l.Driver.CreateVM(ctx, s)
				if err == nil && late != nil && late.Name == s.Name {
					must(l.Driver.CreateVM(bg, *late))
				}
				if late = nil; lost(err) {
					late = &s
				}
				return t, err
			}
		}},
		{name: "a half copy is left unnamed", area: "faults/vm.clone", finding: "which is neither as before", tell: leftover(func(hypervisor.Ref) hypervisor.Ref { return hypervisor.Ref{} })},
		{name: "a half copy is named without its ID", area: "faults/vm.clone", finding: "without an ID", tell: leftover(func(r hypervisor.Ref) hypervisor.Ref {
			return hypervisor.Ref{Kind: r.Kind, Name: r.ID}
		})},
		{name: "a half copy has an ID that nobody knows", area: "faults/vm.clone", finding: "which is neither as before", tell: leftover(func(r hypervisor.Ref) hypervisor.Ref {
			return hypervisor.Ref{Kind: r.Kind, ID: "OpaqueRef:" + r.ID}
		})},
		{name: "the source is named as left", area: "faults/vm.clone", finding: "which was there before", tell: leftover(func(hypervisor.Ref) hypervisor.Ref {
			return hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: "source"}
		})},
		{name: "a half change stays", area: "faults/vm.reconfigure", finding: "which is neither as before", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				t, err := l.Driver.Reconfigure(ctx, id, ch)
				if err != nil && !lost(err) {
					must(l.Driver.Reconfigure(bg, id, hypervisor.Changes{Description: &text}))
				}
				return t, err
			}
		}},
		{name: "the content goes", area: "faults/disk.grow", finding: "which is neither as before", tell: func(l *lie) {
			l.growDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, n int64) (dtask, error) {
				t, err := l.Driver.GrowDisk(ctx, id, d, n)
				if err != nil {
					_ = l.b.WriteDisk(id, 0, "")
				}
				return t, err
			}
		}},
		{name: "the guest is reset", area: "faults/vm.pause", finding: "its memory was lost", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				t, err := l.Driver.Power(ctx, id, r)
				if r.Op == hypervisor.PowerOpPause && err != nil {
					must(l.Driver.Power(bg, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpReset}))
				}
				if r.Op == hypervisor.PowerOpPause && err == nil { // reported as paused, and it runs
					must(l.Driver.Power(bg, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpResume}))
				}
				return t, err
			}
		}},
		{name: "a lost call is waited for", area: "faults/vm.reset", finding: "it has not ended after", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				t, err := l.Driver.Power(ctx, id, r)
				if lost(err) {
					<-ctx.Done()
				}
				return t, err
			}
		}},
		{name: "the session is not renewed", area: "faults/nic.attach", finding: "the session was not renewed", tell: func(l *lie) {
			l.attachNIC = func(ctx context.Context, id vmID, n hypervisor.NICSpec) (dtask, error) {
				t, err := l.Driver.AttachNIC(ctx, id, n)
				for _, c := range l.b.Calls() {
					if c.Op == op.ClientLogin {
						return nil, hypervisor.Errorf(hypervisor.ErrUnauthenticated, id.Ref(), "log in again")
					}
				}
				return t, err
			}
		}},
		{name: "the token is forgotten", area: "faults/vm.clone-linked", finding: "after the same again there is", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.Token = ""
				t, err := l.Driver.Clone(ctx, id, r)
				return t, err
			}
		}},
		{name: "what is done is done again", area: "faults/vm.delete", finding: "the same again: <nil>", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				t, err := l.Driver.DeleteVM(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
					return did(id.Ref())
				}
				return t, err
			}
		}},
		{name: "work that continues is not found", area: "faults/snapshot.create", finding: "find the task of", tell: func(l *lie) {
			l.find = func(_ context.Context, id hypervisor.TaskID) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such task")
			}
		}},
		{name: "a read is not sent again", area: "faults/reads", finding: "vm.dependencies", tell: func(l *lie) {
			l.depend = func(ctx context.Context, id vmID) (hypervisor.Dependencies, error) {
				before := len(l.b.Calls())
				d, err := l.Driver.Dependencies(ctx, id)
				if len(l.b.Calls()) > before+1 {
					return d, errors.New("EOF")
				}
				return d, err
			}
		}},
		{name: "a part of the work reads once", area: "faults/disk.attach", finding: "was not sent again", tell: func(l *lie) {
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				before := len(l.b.Calls())
				v, err := l.Driver.GetVM(ctx, id)
				if n := len(l.b.Calls()); n == before+2 && l.b.Calls()[n-1].Op == op.VMInfo {
					return v, hypervisor.Errorf(hypervisor.ErrUnavailable, id.Ref(), "EOF")
				}
				return v, err
			}
		}},
	}
}

// faultLimit is how long an operation under faults may take here.
const faultLimit = 2 * time.Second
