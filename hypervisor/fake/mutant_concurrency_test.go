package fake_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// nth calls f for the second and all later clones, which meet the first.
func nth(l *lie, f func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error)) {
	var n atomic.Int64
	l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
		if n.Add(1) == 1 {
			return l.Driver.Clone(ctx, id, r)
		}
		return f(ctx, id, r)
	}
}

func concurrencyMutants() []mutant {
	deploy, linked := "concurrency/deploy-linked", "concurrency/clone-linked-twice"
	return []mutant{
		{name: "a second clone is an unknown error", area: linked, finding: "want \"busy\"", tell: func(l *lie) {
			nth(l, func(context.Context, vmID, hypervisor.CloneRequest) (dtask, error) {
				return nil, errors.New("400 task in progress")
			})
		}},
		{name: "a busy clone is made all the same", area: linked, finding: "no call has returned it", tell: func(l *lie) {
			nth(l, func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				must(l.Driver.Clone(ctx, id, r))
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "another clone is made")
			})
		}},
		{name: "a busy source is never free again", area: deploy, finding: "once the others have ended", tell: func(l *lie) {
			nth(l, func(_ context.Context, id vmID, _ hypervisor.CloneRequest) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "another clone is made")
			})
		}},
		{name: "all of many clones are busy", area: deploy, finding: "all are refused", tell: func(l *lie) {
			l.clone = func(_ context.Context, id vmID, _ hypervisor.CloneRequest) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "another clone is made")
			}
		}},
		{name: "a second deploy is blank", area: deploy, finding: "after Deploy the disk holds", tell: func(l *lie) {
			nth(l, func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return then(t, err, func(s tstate) { _ = l.b.WriteDisk(vmID(s.Result.ID), 0, "") })
			})
		}},
		{name: "a second deploy is full", area: deploy, finding: "has no base", tell: func(l *lie) {
			nth(l, func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.Mode = hypervisor.CloneModeFull
				return l.Driver.Clone(ctx, id, r)
			})
		}},
		{name: "deploys leave the template a machine", area: deploy, finding: "after the deploys the template is none", tell: func(l *lie) {
			var deployed atomic.Value
			deployed.Store(vmID(""))
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				v, err := l.Driver.GetVM(ctx, id)
				v.Template = v.Template && id != deployed.Load()
				return v, err
			}
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				deployed.Store(id)
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "a snapshot during a move is an unknown error", area: "concurrency/migrate-and-snapshot", finding: "CreateSnapshot during Migrate", tell: func(l *lie) {
			l.snap = func(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
				return nil, errors.New("virError(Code=42): domain not found")
			}
		}},
		{name: "a move empties the disk", area: "concurrency/migrate-and-snapshot", finding: "after the race the disk holds", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				for errors.Is(err, hypervisor.ErrBusy) { // the snapshot was first
					time.Sleep(time.Millisecond)
					t, err = l.Driver.Migrate(ctx, id, r)
				}
				return then(t, err, func(tstate) { _ = l.b.WriteDisk(id, 0, "") })
			}
		}},
		{name: "a clone of a snapshot that goes is of now", area: "concurrency/linked-clone-and-delete-snapshot", finding: "after Delete of its snapshot while it was made the disk holds", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.From = ""
				return l.Driver.Clone(ctx, id, r)
			}
			l.unsnap = func(_ context.Context, _ vmID, s hypervisor.SnapshotID, _ hypervisor.DeleteSnapshotOptions) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, s.Ref(), "a clone is made")
			}
		}},
		{name: "a clone during a snapshot is blank", area: "concurrency/clone-and-snapshot", finding: "after Clone during CreateSnapshot the disk holds", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return then(t, err, func(s tstate) { _ = l.b.WriteDisk(vmID(s.Result.ID), 0, "") })
			}
			l.snap = func(_ context.Context, id vmID, _ hypervisor.SnapshotRequest) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "a clone is made")
			}
		}},
		{name: "a source is deleted under its clone", area: "concurrency/clone-and-delete", finding: "broke the clone", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if s.Done {
						s.Err = errors.New("no such file or directory")
					}
					return s
				})
			}
		}},
	}
}

// TestChain: what a backend says about a running machine's chain is a finding.
func TestChain(t *testing.T) {
	h := bench{other: &fake.Config{}}.harness("")
	inner := h.New
	h.New = func(t hypervisortest.T) *hypervisortest.Backend {
		b := inner(t)
		b.Chain = func(context.Context, vmID) error { return errors.New("the headers leave an image out") }
		return b
	}
	h.Only = []string{"concurrency/clone-running-twice"}
	found := hypervisortest.Check(t.Context(), h)
	if !slices.ContainsFunc(found, func(f hypervisortest.Finding) bool { return strings.Contains(f.Text, "the headers leave an image out") }) {
		t.Errorf("the suite found %v", found)
	}
}
