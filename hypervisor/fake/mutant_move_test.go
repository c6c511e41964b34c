package fake_test

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func moveMutants() []mutant {
	return []mutant{
		{name: "memory is lost in migration", area: "migration", finding: "its memory was lost", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				return then(t, err, func(tstate) {
					if v, err := l.Driver.GetVM(bg, id); err == nil && v.State == hypervisor.StateRunning {
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
				if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
					err = hypervisor.Errorf(hypervisor.ErrBusy, vmRef(id), "no")
				}
				return t, err
			}
		}},
		{name: "maintenance without the mode", area: "hosts", finding: "after EnterMaintenance the host is", tell: func(l *lie) {
			l.maintain = func(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceOptions) (dtask, error) {
				t, err := l.Driver.EnterMaintenance(ctx, h, r)
				return then(t, err, func(tstate) { must(l.Driver.ExitMaintenance(bg, h)) })
			}
		}},
	}
}

func answerMutants() []mutant {
	return []mutant{
		{name: "denied and done", area: "refusals", finding: "is not declared, yet the call succeeded", tell: func(l *lie) {
			l.supports = func(k capability.Name, s hypervisor.Support) hypervisor.Support {
				if k == capability.SnapshotMemory {
					s = hypervisor.Support{Level: hypervisor.LevelNo, Reason: hypervisor.ReasonPlatform, Detail: "no"}
				}
				return s
			}
		}},
		{name: "declared and refused", area: "snapshots", finding: "CreateSnapshot(\"ram\")", cfg: disabled(capability.SnapshotMemory), tell: func(l *lie) {
			l.supports = func(k capability.Name, s hypervisor.Support) hypervisor.Support {
				if k == capability.SnapshotMemory {
					s = hypervisor.Support{Level: hypervisor.LevelYes}
				}
				return s
			}
		}},
		{name: "refused for another reason", area: "refusals", finding: "was refused with reason", cfg: disabled(capability.PowerPause), tell: func(l *lie) {
			l.supports = func(k capability.Name, s hypervisor.Support) hypervisor.Support {
				if k == capability.PowerPause {
					s.Reason = hypervisor.ReasonAPIVersion
				}
				return s
			}
		}},
		{name: "refused without a reason", area: "refusals", finding: "want Unsupported with the reason", cfg: disabled(capability.PowerPause), tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				t, err := l.Driver.Power(ctx, id, r)
				if errors.Is(err, hypervisor.ErrUnsupported) {
					err = hypervisor.Errorf(hypervisor.ErrPermission, vmRef(id), "no")
				}
				return t, err
			}
		}},
		{name: "partial without a reason", area: "refusals", finding: "without a reason", tell: func(l *lie) {
			l.supports = func(k capability.Name, s hypervisor.Support) hypervisor.Support {
				if k == capability.Templates {
					s.Level = hypervisor.LevelPartial
				}
				return s
			}
		}},
		{name: "a refused call leaves an image", area: "refusals", finding: "refused calls left the images", cfg: disabled(capability.CloneInstant), tell: func(l *lie) {
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
				return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such task")
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
						if e.Type != hypervisor.EventVMDeleted && !yield(e, err) {
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
		{name: "the clock is exact", area: "guest", finding: "Clock reports", tell: func(l *lie) {
			l.clock = func(ctx context.Context, id vmID) (hypervisor.ClockReading, error) {
				c, err := l.Driver.GuestClock(ctx, id)
				c.Uncertainty = 0
				return c, err
			}
		}},
		{name: "concurrent work fails", area: "concurrency", finding: "want success or ErrBusy", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				t, err := l.Driver.Reconfigure(ctx, id, ch)
				if hypervisor.KindOf(err) == hypervisor.ErrBusy {
					err = &fake.NativeError{Kind: hypervisor.ErrUnknown, Text: "lock timeout"}
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
