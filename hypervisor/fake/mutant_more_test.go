package fake_test

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func copyMutants() []mutant {
	return []mutant{
		{name: "revert restores nothing", area: "snapshots", finding: "after Revert to one", tell: func(l *lie) {
			l.revert = func(_ context.Context, _ vmID, s hypervisor.SnapshotID, _ hypervisor.RevertRequest) (dtask, error) {
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
			l.unsnap = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, _ hypervisor.DeleteSnapshotRequest) (dtask, error) {
				return l.Driver.DeleteSnapshot(ctx, id, s, hypervisor.DeleteSnapshotRequest{Children: true})
			}
		}},
		{name: "a snapshot with RAM is without", area: "snapshots", finding: "the snapshot with RAM is", tell: func(l *lie) {
			l.snap = func(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
				r.Memory = false
				return l.Driver.CreateSnapshot(ctx, id, r)
			}
		}},
		{name: "reverting to RAM boots anew", area: "snapshots", finding: "its memory was lost", tell: func(l *lie) {
			l.revert = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertRequest) (dtask, error) {
				t, err := l.Driver.RevertSnapshot(ctx, id, s, r)
				return then(t, err, func(tstate) {
					if v, err := l.Driver.GetVM(bg, id); err == nil && v.State == hypervisor.Running {
						must(l.Driver.Power(bg, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpReset}))
					}
				})
			}
		}},
		{name: "a linked clone is full", area: "clones", finding: "stands on nothing", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				if r.Mode == hypervisor.Linked {
					r.Mode = hypervisor.FullClone
				}
				return l.Driver.Clone(ctx, id, r)
			}
		}},
		{name: "a full clone is linked", area: "clones", finding: "of a full clone stands on", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				r.Mode = hypervisor.Linked
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
				if hypervisor.KindOf(err) == hypervisor.KindBusy {
					err = hypervisor.Errorf(hypervisor.KindBusy, vmRef(id), "something stands on it")
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
				if err == nil && v.State != hypervisor.Off {
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
					if n == 0 && hypervisor.KindOf(s.Err) == hypervisor.KindCanceled {
						n++
						l.b.SetDelay("volume.create", 0)
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
					if hypervisor.KindOf(s.Err) == hypervisor.KindCanceled {
						l.b.SetDelay("volume.create", 0)
						must(l.Driver.CreateVolume(bg, hypervisor.VolumeSpec{Name: "left", Datastore: "ds-shared", SizeBytes: hypervisor.MiB}))
						s.Leftover = []hypervisor.Ref{{Kind: hypervisor.KindOfVolume, ID: "another"}}
					}
					return s
				})
			}
		}},
		{name: "a cancelled migration arrives all the same", area: "cancel", finding: "after Migrate ended with", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				return bend(t, err, func(s tstate) tstate {
					if hypervisor.KindOf(s.Err) == hypervisor.KindCanceled {
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

func moveMutants() []mutant {
	return []mutant{
		{name: "memory is lost in migration", area: "migration", finding: "its memory was lost", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				return then(t, err, func(tstate) {
					if v, err := l.Driver.GetVM(bg, id); err == nil && v.State == hypervisor.Running {
						must(l.Driver.Power(bg, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpReset}))
					}
				})
			}
		}},
		{name: "migration moves nothing", area: "migration", finding: "the machine is on", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				return did(vmRef(id))
			}
		}},
		{name: "the check sees no blockers", area: "migration", finding: "CheckMigrate to the same host", tell: func(l *lie) {
			l.check = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
				_, err := l.Driver.CheckMigrate(ctx, id, r)
				return hypervisor.MigrateReport{}, err
			}
		}},
		{name: "the check moves", area: "migration", finding: "CheckMigrate changed the machine", tell: func(l *lie) {
			l.check = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
				rep, err := l.Driver.CheckMigrate(ctx, id, r)
				if err == nil && rep.OK() {
					must(l.Driver.Migrate(ctx, id, r))
				}
				return rep, err
			}
		}},
		{name: "the source keeps its images", area: "migration", finding: "left source images", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				r.KeepSource = r.KeepSource || r.To == nil
				return l.Driver.Migrate(ctx, id, r)
			}
		}},
		{name: "a device in use is free", area: "devices", finding: "said to be assignable", tell: func(l *lie) {
			l.devices = func(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
				all, err := l.Driver.Devices(ctx, f)
				for i := range all {
					if all[i].Reason == hypervisor.ReasonDeviceInUse {
						all[i].Assignable, all[i].Reason = true, ""
					}
				}
				return all, err
			}
		}},
		{name: "devices have no holder", area: "devices", finding: "is used by", tell: func(l *lie) {
			l.devices = func(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
				all, err := l.Driver.Devices(ctx, f)
				for i := range all {
					all[i].UsedBy = nil
				}
				return all, err
			}
		}},
		{name: "an absent device is busy", area: "devices", finding: "AttachDevice of an absent ID", tell: func(l *lie) {
			l.attachDev = func(ctx context.Context, id vmID, r hypervisor.DeviceRequest) (dtask, error) {
				t, err := l.Driver.AttachDevice(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.KindNotFound {
					err = hypervisor.Errorf(hypervisor.KindBusy, vmRef(id), "no")
				}
				return t, err
			}
		}},
		{name: "maintenance without the mode", area: "hosts", finding: "after EnterMaintenance the host is", tell: func(l *lie) {
			l.maintain = func(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceRequest) (dtask, error) {
				t, err := l.Driver.EnterMaintenance(ctx, h, r)
				return then(t, err, func(tstate) { must(l.Driver.ExitMaintenance(bg, h)) })
			}
		}},
	}
}

func answerMutants() []mutant {
	return []mutant{
		{name: "denied and done", area: "refusals", finding: "is not declared, yet the call succeeded", tell: func(l *lie) {
			l.supports = func(k hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
				if k == hypervisor.SnapshotMemory {
					s = hypervisor.Support{Level: hypervisor.No, Reason: hypervisor.ReasonPlatform, Detail: "no"}
				}
				return s
			}
		}},
		{name: "declared and refused", area: "snapshots", finding: "CreateSnapshot(\"ram\")", cfg: disabled(hypervisor.SnapshotMemory), tell: func(l *lie) {
			l.supports = func(k hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
				if k == hypervisor.SnapshotMemory {
					s = hypervisor.Support{Level: hypervisor.Yes}
				}
				return s
			}
		}},
		{name: "refused for another reason", area: "refusals", finding: "was refused with reason", cfg: disabled(hypervisor.PowerPause), tell: func(l *lie) {
			l.supports = func(k hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
				if k == hypervisor.PowerPause {
					s.Reason = hypervisor.ReasonAPIVersion
				}
				return s
			}
		}},
		{name: "refused without a reason", area: "refusals", finding: "want Unsupported with the reason", cfg: disabled(hypervisor.PowerPause), tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				t, err := l.Driver.Power(ctx, id, r)
				if errors.Is(err, hypervisor.ErrUnsupported) {
					err = hypervisor.Errorf(hypervisor.KindPermission, vmRef(id), "no")
				}
				return t, err
			}
		}},
		{name: "partial without a reason", area: "refusals", finding: "without a reason", tell: func(l *lie) {
			l.supports = func(k hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
				if k == hypervisor.Templates {
					s.Level = hypervisor.Partial
				}
				return s
			}
		}},
		{name: "a refused call leaves an image", area: "refusals", finding: "refused calls left the images", cfg: disabled(hypervisor.CloneInstant), tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				if err != nil {
					must(l.Driver.CreateVolume(bg, hypervisor.VolumeSpec{Name: "left", Datastore: "ds-shared", SizeBytes: hypervisor.MiB}))
				}
				return t, err
			}
		}},
		{name: "a task found again has no result", area: "tasks", finding: "has no result", tell: func(l *lie) {
			l.find = func(ctx context.Context, id hypervisor.TaskID) (dtask, error) {
				t, err := l.Driver.Task(ctx, id)
				return bend(t, err, func(s tstate) tstate { s.Result = hypervisor.Ref{}; return s })
			}
		}},
		{name: "tasks are forgotten", area: "tasks", finding: "from a second Client", tell: func(l *lie) {
			l.find = func(_ context.Context, id hypervisor.TaskID) (dtask, error) {
				return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such task")
			}
		}},
		{name: "tasks of any ID are done", area: "tasks", finding: "Task of an absent ID", tell: func(l *lie) {
			l.find = func(ctx context.Context, id hypervisor.TaskID) (dtask, error) {
				t, err := l.Driver.Task(ctx, id)
				if err != nil {
					return did(id.Ref())
				}
				return t, err
			}
		}},
		{name: "events without time", area: "events", finding: "without type or time", tell: func(l *lie) {
			l.watch = func(ctx context.Context, token string) events {
				return func(yield func(hypervisor.Event, error) bool) {
					for e, err := range l.Driver.Watch(ctx, token) {
						e.Time = time.Time{}
						if !yield(e, err) {
							return
						}
					}
				}
			}
		}},
		{name: "deletion is not told", area: "events", finding: "no event within", tell: func(l *lie) {
			l.watch = func(ctx context.Context, token string) events {
				return func(yield func(hypervisor.Event, error) bool) {
					for e, err := range l.Driver.Watch(ctx, token) {
						if e.Type != hypervisor.VMDeleted && !yield(e, err) {
							return
						}
					}
				}
			}
		}},
		{name: "the token of a watch is ignored", area: "events", finding: "told neither", tell: func(l *lie) {
			l.watch = func(ctx context.Context, _ string) events { return l.Driver.Watch(ctx, "") }
		}},
		{name: "every program succeeds", area: "guest", finding: "Exec of exit 7", tell: func(l *lie) {
			l.exec = func(ctx context.Context, id vmID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
				x, err := l.Driver.Exec(ctx, id, r)
				x.ExitCode = 0
				return x, err
			}
		}},
		{name: "the clock is exact", area: "guest", finding: "Clock tells", tell: func(l *lie) {
			l.clock = func(ctx context.Context, id vmID) (hypervisor.ClockReading, error) {
				c, err := l.Driver.GuestClock(ctx, id)
				c.Uncertainty = 0
				return c, err
			}
		}},
		{name: "concurrent work fails", area: "concurrency", finding: "want success or ErrBusy", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				t, err := l.Driver.Reconfigure(ctx, id, ch)
				if hypervisor.KindOf(err) == hypervisor.KindBusy {
					err = &fake.NativeError{Kind: hypervisor.KindUnknown, Text: "lock timeout"}
				}
				return t, err
			}
		}},
		{name: "a second Close fails", area: "close", finding: "Close", tell: func(l *lie) {
			l.closed = func() error {
				_ = l.Driver.Close()
				return errors.New("close of closed session")
			}
		}},
		{name: "goroutines are left", area: "inventory", finding: "goroutines of the Client are left"},
	}
}
