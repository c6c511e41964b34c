package fake_test

import (
	"context"
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func copyMutants() []mutant {
	return []mutant{
		{name: "revert restores nothing", area: "snapshots", finding: "after Revert to one", tell: func(l *lie) {
			l.revert = func(_ context.Context, _ vmID, s hypervisor.SnapshotID, _ hypervisor.RevertOptions) (dtask, error) {
				return did(s.Ref())
			}
		}},
		{name: "the snapshots are a list", area: "snapshots", finding: "want parent", tell: func(l *lie) {
			l.snaps = func(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
				all, err := l.Driver.Snapshots(ctx, id)
				for i := range all {
					if i > 0 {
						all[i].Parent = all[i-1].ID
					}
				}
				return all, err
			}
		}},
		{name: "children before parents", area: "snapshots", finding: "before its parent", tell: func(l *lie) {
			l.snaps = func(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
				all, err := l.Driver.Snapshots(ctx, id)
				slices.Reverse(all)
				return all, err
			}
		}},
		{name: "delete of a snapshot takes its children along", area: "snapshots", finding: "after Delete of the root", tell: func(l *lie) {
			l.unsnap = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, _ hypervisor.DeleteSnapshotOptions) (dtask, error) {
				return l.Driver.DeleteSnapshot(ctx, id, s, hypervisor.DeleteSnapshotOptions{Children: true})
			}
		}},
		{name: "a snapshot with RAM is without", area: "snapshots", finding: "the snapshot with RAM is", tell: func(l *lie) {
			l.snap = func(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
				r.Memory = false
				return l.Driver.CreateSnapshot(ctx, id, r)
			}
		}},
		{name: "reverting to RAM boots anew", area: "snapshots", finding: "its memory was lost", tell: func(l *lie) {
			l.revert = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
				t, err := l.Driver.RevertSnapshot(ctx, id, s, r)
				return then(t, err, func(tstate) {
					if v, err := l.Driver.GetVM(bg, id); err == nil && v.State == hypervisor.StateRunning {
						must(l.Driver.Power(bg, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpReset}))
					}
				})
			}
		}},
		{name: "a linked clone is full", area: "clones", finding: "depends on nothing", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				if r.Mode == hypervisor.CloneModeLinked {
					r.Mode = hypervisor.CloneModeFull
				}
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "a full clone is linked", area: "clones", finding: "of a full clone depends on", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.Mode = hypervisor.CloneModeLinked
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "the token of clone is ignored", area: "clones", finding: "Clone with the same token made", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.Token = ""
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "a clone of a snapshot is one of now", area: "clones", finding: "a clone of a snapshot", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.From = ""
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "clones keep the MAC", area: "clones", finding: "has its source's MAC", tell: func(l *lie) {
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				v, err := l.Driver.GetVM(ctx, id)
				for i := range v.NICs {
					v.NICs[i].MAC = "52:54:00:00:00:01"
				}
				return v, err
			}
		}},
		{name: "the dependant isn't named", area: "clones", finding: "doesn't name the dependant", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				t, err := l.Driver.DeleteVM(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.ErrBusy {
					err = hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "something depends on it")
				}
				return t, err
			}
		}},
		{name: "dependencies are forgotten", area: "clones", finding: "doesn't name the linked clone", tell: func(l *lie) {
			l.depend = func(context.Context, vmID) (hypervisor.Dependencies, error) { return hypervisor.Dependencies{}, nil }
		}},
		{name: "no template is made", area: "templates", finding: "Templates leaves out", tell: func(l *lie) {
			l.mark = func(ctx context.Context, id vmID) (dtask, error) {
				v, err := l.Driver.GetVM(ctx, id)
				if err == nil && v.State != hypervisor.StateOff {
					return l.Driver.MarkTemplate(ctx, id)
				}
				return did(hypervisor.TemplateID(id).Ref())
			}
		}},
		{name: "a template starts", area: "templates", finding: "Start of a template: succeeded", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				if v, err := l.Driver.GetVM(ctx, id); err == nil && v.Template {
					return did(vmRef(id))
				}
				return l.Driver.Power(ctx, id, r)
			}
		}},
		{name: "a cancelled clone claims success", area: "cancel", finding: "", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if s.Done && s.Err != nil {
						s.Err, s.Result = nil, vmRef("gone")
					}
					return s
				})
			}
		}},
		{name: "a cancelled clone leaves an image unnamed", area: "cancel", finding: "doesn't name it", tell: func(l *lie) {
			n := 0
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if n == 0 && hypervisor.KindOf(s.Err) == hypervisor.ErrCanceled {
						n++
						l.b.SetDelay(op.VolumeCreate, 0)
						must(l.Driver.CreateVolume(bg, hypervisor.VolumeSpec{Name: "left", Datastore: "ds-shared", SizeBytes: hypervisor.MiB}))
					}
					return s
				})
			}
		}},
		{name: "a cancelled clone names something else", area: "cancel", finding: "doesn't name it", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if hypervisor.KindOf(s.Err) == hypervisor.ErrCanceled {
						l.b.SetDelay(op.VolumeCreate, 0)
						must(l.Driver.CreateVolume(bg, hypervisor.VolumeSpec{Name: "left", Datastore: "ds-shared", SizeBytes: hypervisor.MiB}))
						s.Leftover = []hypervisor.Ref{{Kind: hypervisor.ObjectVolume, ID: "another"}}
					}
					return s
				})
			}
		}},
		{name: "a cancelled migration arrives all the same", area: "cancel", finding: "after Migrate ended with", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if hypervisor.KindOf(s.Err) == hypervisor.ErrCanceled {
						l.b.SetDelay("*", 0)
						must(l.Driver.Migrate(bg, id, r))
					}
					return s
				})
			}
		}},
		{name: "a cancelled clone is an unknown error", area: "cancel", finding: "want \"canceled\"", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if s.Err != nil {
						s.Err = errors.New("vmware: task aborted")
					}
					return s
				})
			}
		}},
	}
}
