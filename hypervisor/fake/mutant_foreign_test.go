package fake_test

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// silent is a task whose notes are lost.
func silent(t dtask, err error) (dtask, error) {
	return bend(t, err, func(s tstate) tstate { s.Notes = nil; return s })
}

// unnamed is a refusal that says nothing.
func unnamed(err error) error {
	if err == nil || hypervisor.KindOf(err) == hypervisor.ErrUnknown {
		return err
	}
	return hypervisor.Errorf(hypervisor.KindOf(err), hypervisor.Ref{}, "it can't be done")
}

// strip takes away what another tool gave a machine, but for disks.
func (l *lie) strip(id vmID) {
	for n := range parts.Load() + 1 {
		for kind := range partNames {
			_ = l.b.RemoveForeign(id, kind, partName(kind, n))
		}
	}
}

// second is the image of a machine's second disk.
func (l *lie) second(id vmID) hypervisor.VolumeID {
	where, _, err := l.b.Foreign(id, fake.ForeignShared, "")
	if err != nil {
		return ""
	}
	return hypervisor.VolumeID(where)
}

func foreignMutants() []mutant {
	edit := func(l *lie, f func(*hypervisor.VMInfo)) {
		l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
			v, err := l.Driver.GetVM(ctx, id)
			f(&v)
			return v, err
		}
	}
	return []mutant{
		{name: "a raw disk isn't listed", area: "foreign", finding: "Info lists no disk", tell: func(l *lie) {
			edit(l, func(v *hypervisor.VMInfo) {
				v.Disks = slices.DeleteFunc(v.Disks, func(d hypervisor.DiskInfo) bool { return d.Volume == "" })
			})
		}},
		{name: "a raw disk has no size", area: "foreign", finding: "Info reports 0 bytes", tell: func(l *lie) {
			edit(l, func(v *hypervisor.VMInfo) {
				for i, d := range v.Disks {
					if d.Volume == "" {
						v.Disks[i].SizeBytes = 0
					}
				}
			})
		}},
		{name: "an unknown device isn't listed", area: "foreign", finding: "Info lists no device", tell: func(l *lie) {
			edit(l, func(v *hypervisor.VMInfo) { v.Devices = nil })
		}},
		{name: "a foreign disk hides the own ones", area: "foreign", finding: "no longer listed as it was", tell: func(l *lie) {
			edit(l, func(v *hypervisor.VMInfo) {
				if len(v.Disks) > 1 {
					v.Disks = v.Disks[1:]
				}
			})
		}},
		{name: "the machine is where its last disk is", area: "foreign", finding: "the machine's datastore is", tell: func(l *lie) {
			edit(l, func(v *hypervisor.VMInfo) {
				if n := len(v.Disks); n > 0 {
					v.Placement.Datastore = v.Disks[n-1].Datastore
				}
			})
		}},
		{name: "another tool's snapshots are hidden", area: "foreign", finding: "find the snapshot", tell: func(l *lie) {
			l.snaps = func(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
				all, err := l.Driver.Snapshots(ctx, id)
				return slices.DeleteFunc(all, func(s hypervisor.SnapshotInfo) bool { return s.Kind == "internal" }), err
			}
		}},
		{name: "only own dependants count", area: "foreign", finding: "Dependencies names none", tell: func(l *lie) {
			l.depend = func(ctx context.Context, id vmID) (hypervisor.Dependencies, error) {
				d, err := l.Driver.Dependencies(ctx, id)
				for i := range d.Volumes {
					d.Volumes[i].Dependants = nil
				}
				return d, err
			}
		}},
		{name: "reconfigure drops metadata", area: "foreign", finding: "after Reconfigure the machine has lost metadata", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				l.strip(id)
				return l.Driver.Reconfigure(ctx, id, ch)
			}
		}},
		{name: "labels replace metadata", area: "foreign", finding: "after SetLabels the machine has lost metadata", tell: func(l *lie) {
			l.setLabels = func(ctx context.Context, id vmID, m map[string]string) error {
				l.strip(id)
				return l.Driver.SetLabels(ctx, id, m)
			}
		}},
		{name: "new disks go anywhere", area: "foreign", finding: "the new disk is in datastore", tell: func(l *lie) {
			l.attachDisk = func(ctx context.Context, id vmID, s hypervisor.DiskSpec) (dtask, error) {
				s.Datastore = "ds-archive"
				return l.Driver.AttachDisk(ctx, id, s)
			}
		}},
		{name: "snapshots leave disks out in silence", area: "foreign", finding: "the snapshot doesn't hold", tell: func(l *lie) {
			l.snap = func(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
				return silent(l.Driver.CreateSnapshot(ctx, id, r))
			}
		}},
		{name: "revert drops foreign disks", area: "foreign", finding: "after Revert to a snapshot from before the machine lacks", tell: func(l *lie) {
			l.revert = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
				t, err := l.Driver.RevertSnapshot(ctx, id, s, r)
				return then(t, err, func(tstate) { _ = l.b.RemoveForeign(id, fake.ForeignShared, "") })
			}
		}},
		{name: "revert wipes foreign disks", area: "foreign", finding: "from before, shared-image holds", tell: func(l *lie) {
			l.revert = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
				t, err := l.Driver.RevertSnapshot(ctx, id, s, r)
				return then(t, err, func(tstate) { _ = l.b.WriteDisk(id, 1, "") })
			}
		}},
		{name: "revert drops other tools' snapshots", area: "foreign", finding: "from before took internal-snapshot away", tell: func(l *lie) {
			l.revert = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
				t, err := l.Driver.RevertSnapshot(ctx, id, s, r)
				return then(t, err, func(tstate) { l.strip(id) })
			}
		}},
		{name: "merging loses other tools' snapshots", area: "foreign", finding: "after Delete of the snapshot the machine has lost internal-snapshot", tell: func(l *lie) {
			l.unsnap = func(ctx context.Context, id vmID, s hypervisor.SnapshotID, o hypervisor.DeleteSnapshotOptions) (dtask, error) {
				t, err := l.Driver.DeleteSnapshot(ctx, id, s, o)
				return then(t, err, func(tstate) { l.strip(id) })
			}
		}},
		{name: "another tool's snapshot isn't reverted to", area: "foreign", finding: "after Revert to another tool's snapshot the disk holds", tell: func(l *lie) {
			l.revert = func(_ context.Context, _ vmID, s hypervisor.SnapshotID, _ hypervisor.RevertOptions) (dtask, error) {
				return did(s.Ref())
			}
		}},
		{name: "another tool's snapshot isn't deleted", area: "foreign", finding: "after Delete of another tool's snapshot it is there", tell: func(l *lie) {
			l.unsnap = func(_ context.Context, _ vmID, s hypervisor.SnapshotID, _ hypervisor.DeleteSnapshotOptions) (dtask, error) {
				return did(s.Ref())
			}
		}},
		{name: "delete removes shared images", area: "foreign", finding: "Delete removed shared-image", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				v := l.second(id)
				t, err := l.Driver.DeleteVM(ctx, id, r)
				return then(t, err, func(tstate) { l.b.RemoveVolume(v) })
			}
		}},
		{name: "delete keeps in silence", area: "foreign", finding: "Delete left raw-disk", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				return silent(l.Driver.DeleteVM(ctx, id, r))
			}
		}},
		{name: "delete wipes host disks", area: "foreign", finding: "after Delete raw-disk holds", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				_ = l.b.WriteDisk(id, 1, "")
				return l.Driver.DeleteVM(ctx, id, r)
			}
		}},
		{name: "a refused delete has happened", area: "foreign", finding: "after a refused Delete the machine is gone", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				t, err := l.Driver.DeleteVM(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.ErrBusy && r.Disks == hypervisor.DeleteDisks {
					must(l.Driver.DeleteVM(ctx, id, hypervisor.DeleteRequest{Disks: hypervisor.KeepDisks}))
				}
				return t, err
			}
		}},
		{name: "detach keeps in silence", area: "foreign", finding: "DetachDisk left shared-image", tell: func(l *lie) {
			l.detachDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, p hypervisor.DiskPolicy) (dtask, error) {
				return silent(l.Driver.DetachDisk(ctx, id, d, p))
			}
		}},
		{name: "detach does nothing", area: "foreign", finding: "after DetachDisk the machine has", tell: func(l *lie) {
			l.detachDisk = func(_ context.Context, _ vmID, d hypervisor.DiskID, _ hypervisor.DiskPolicy) (dtask, error) {
				return did(d.Ref())
			}
		}},
	}
}

func foreignCopyMutants() []mutant {
	return []mutant{
		{name: "clones share a disk", area: "foreign", finding: "two machines have shared-image", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				v := l.second(id)
				t, err := l.Driver.Clone(ctx, id, r)
				return then(t, err, func(s tstate) {
					if c := vmID(s.Result.ID); l.second(c) != "" {
						own := l.second(c)
						_ = l.b.RemoveForeign(c, fake.ForeignShared, "")
						l.b.RemoveVolume(own)
						_, _ = l.b.AddForeign(c, fake.Foreign{Kind: fake.ForeignShared, Name: string(v)})
					}
				})
			}
		}},
		{name: "clones lack parts in silence", area: "foreign", finding: "the copy lacks raw-disk", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				return silent(l.Driver.Clone(ctx, id, r))
			}
		}},
		{name: "clones get blank disks", area: "foreign", finding: "the copy's shared-image holds", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return then(t, err, func(s tstate) { _ = l.b.WriteDisk(vmID(s.Result.ID), 1, "") })
			}
		}},
		{name: "a clone's delete takes the source's image", area: "foreign", finding: "after Delete of the copy", tell: func(l *lie) {
			var source hypervisor.VolumeID
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				source = l.second(id)
				return l.Driver.Clone(ctx, id, r)
			}
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				l.b.RemoveVolume(source)
				return l.Driver.DeleteVM(ctx, id, r)
			}
		}},
		{name: "a refusal names nothing", area: "foreign", finding: "the refusal names none of", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				return t, unnamed(err)
			}
		}},
		{name: "a refusal has no kind", area: "foreign", finding: "linked Clone: got", tell: func(l *lie) {
			l.clone = func(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
				t, err := l.Driver.Clone(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.ErrUnsupported {
					err = hypervisor.Errorf(hypervisor.ErrUnknown, vmRef(id), "virError(Code=1): %s", err.Error())
				}
				return t, err
			}
		}},
		{name: "templates lose metadata", area: "foreign", finding: "after MarkTemplate the machine has lost metadata", tell: func(l *lie) {
			l.mark = func(ctx context.Context, id vmID) (dtask, error) {
				l.strip(id)
				return l.Driver.MarkTemplate(ctx, id)
			}
		}},
		{name: "the check sees no device", area: "foreign", finding: "CheckMigrate found []", tell: func(l *lie) {
			l.check = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
				rep, err := l.Driver.CheckMigrate(ctx, id, r)
				rep.Blockers = slices.DeleteFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonVMPassthrough })
				return rep, err
			}
		}},
		{name: "a blocker names nothing", area: "foreign", finding: "the report names none of", tell: func(l *lie) {
			l.check = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
				rep, err := l.Driver.CheckMigrate(ctx, id, r)
				for i := range rep.Blockers {
					rep.Blockers[i] = hypervisor.Blocker{Reason: hypervisor.ReasonConfig, Detail: "it can't move"}
				}
				return rep, err
			}
		}},
		{name: "migration loses metadata", area: "foreign", finding: "after Migrate the machine has lost metadata", tell: func(l *lie) {
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				t, err := l.Driver.Migrate(ctx, id, r)
				return then(t, err, func(tstate) { l.strip(id) })
			}
		}},
		{name: "a disk stays behind in silence", area: "foreign", finding: "Migrate of storage left shared-image", tell: func(l *lie) {
			l.check = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
				rep, err := l.Driver.CheckMigrate(ctx, id, r)
				rep.Warnings = nil
				return rep, err
			}
			l.migrate = func(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
				return silent(l.Driver.Migrate(ctx, id, r))
			}
		}},
	}
}
