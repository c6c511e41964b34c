//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// readSnapshots reads a machine's snapshots, parents before children.
func readSnapshots(dom *libvirt.Domain) ([]libvirtxml.DomainSnapshot, error) {
	all, err := dom.ListAllSnapshots(libvirt.DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
	if err != nil {
		return nil, err
	}
	var out []libvirtxml.DomainSnapshot
	for i := range all {
		doc, err := all[i].GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
		_ = all[i].Free() // a local reference
		if libvirtx.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x libvirtxml.DomainSnapshot
		if err := x.Unmarshal(doc); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// frozen returns the images that a snapshot froze, by disk.
func frozen(s *libvirtxml.DomainSnapshot) map[string]string {
	out := map[string]string{}
	if s.Domain == nil || s.Domain.Devices == nil {
		return out
	}
	for _, k := range libvirtx.Writable(s.Domain) {
		if !leftOut(s, k.Target.Dev) {
			out[k.Target.Dev] = libvirtx.DiskPath(k)
		}
	}
	return out
}

// leftOut reports whether a snapshot, which another tool took, does not
// include a disk.
func leftOut(s *libvirtxml.DomainSnapshot, dev string) bool {
	return s.Disks != nil && slices.ContainsFunc(s.Disks.Disks, func(k libvirtxml.DomainSnapshotDisk) bool {
		return k.Name == dev && k.Snapshot == "no"
	})
}

// inside names the internal snapshots that are kept in an image.
func inside(snaps []libvirtxml.DomainSnapshot, image string) []hypervisor.Ref {
	var out []hypervisor.Ref
	for i := range snaps {
		if s := &snaps[i]; internal(s) && slices.Contains(mapValues(frozen(s)), image) {
			out = append(out, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: s.Name, Name: s.Name})
		}
	}
	return out
}

// internal reports whether a snapshot is kept inside its images.
func internal(s *libvirtxml.DomainSnapshot) bool {
	if s.Memory != nil && s.Memory.Snapshot == "internal" {
		return true
	}
	return s.Disks != nil && slices.ContainsFunc(s.Disks.Disks, func(k libvirtxml.DomainSnapshotDisk) bool { return k.Snapshot == "internal" })
}

func hasMemory(s *libvirtxml.DomainSnapshot) bool {
	return s.Memory != nil && (s.Memory.Snapshot == "internal" || s.Memory.Snapshot == "external")
}

// Snapshots implements hypervisor.Snapshotter.
func (d *driver) Snapshots(ctx context.Context, id hypervisor.VMID) ([]hypervisor.SnapshotInfo, error) {
	return fleet.OnDomain(ctx, d.Fleet, id, 3, func(h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) ([]hypervisor.SnapshotInfo, error) {
		_, mark, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return nil, err
		}
		snaps, err := readSnapshots(dom)
		if err != nil || len(snaps) == 0 {
			return nil, err
		}
		pools, err := libvirtx.Pools(c)
		if err != nil {
			return nil, err
		}
		current := ""
		if cur, err := dom.SnapshotCurrent(0); err == nil {
			current, err = cur.GetName()
			_ = cur.Free() // a local reference
			if err != nil {
				return nil, err
			}
		}
		var out []hypervisor.SnapshotInfo
		depth := map[string]int{}
		for i := range snaps {
			s := &snaps[i]
			n := hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(s.Name), VM: id, Name: s.Name, Description: s.Description,
				Current: s.Name == current, Memory: hasMemory(s), Quiesced: slices.Contains(mark.Quiesced, s.Name), State: snapshotState(s.State), Kind: "external"}
			if internal(s) {
				n.Kind = "internal"
			}
			if s.Parent != nil {
				n.Parent = hypervisor.SnapshotID(s.Parent.Name)
				n.Depth = depth[s.Parent.Name] + 1
			}
			depth[s.Name] = n.Depth
			if sec, err := strconv.ParseInt(s.CreationTime, 10, 64); err == nil {
				n.CreatedAt = time.Unix(sec, 0)
			}
			files := fleet.Paths{}
			if s.Memory != nil && s.Memory.File != "" {
				files[s.Memory.File] = true
			}
			if n.Kind == "external" {
				for _, p := range frozen(s) {
					files[p] = true
				}
			}
			for p := range files {
				// The size is unknown for images that are in no pool.
				if v, err := libvirtx.FindImage(c, pools, p); err == nil {
					n.SizeBytes += v.Allocation
				}
			}
			out = append(out, n)
		}
		return out, nil
	})
}

// snapshotState maps a snapshot's <state> (libvirt.org/formatsnapshot.html).
func snapshotState(s string) hypervisor.PowerState {
	switch s {
	case "running", "blocked", "disk-snapshot":
		return hypervisor.StateRunning
	case "paused":
		return hypervisor.StatePaused
	}
	return hypervisor.StateOff
}

// CreateSnapshot implements hypervisor.Snapshotter.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, Name: r.Name}
	if err := libvirtx.CheckName("snapshot name", r.Name, on); err != nil {
		return nil, err
	}
	return d.Run(ctx, "snapshot", id, fleet.LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		sure := context.WithoutCancel(ctx)
		h, err := d.Locate(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		var made []libvirtx.Volume
		asked := false
		_, err = fleet.OnHost(sure, h, id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			var err error
			made, asked, err = snapshot(ctx, c, dom, id, r, j)
			return struct{}{}, err
		})
		if asked && libvirtx.Lost(err) {
			err = taken(sure, h, id, r.Name, err)
		}
		if err != nil {
			j.Left(h.Tidy(sure, made)...)
			return hypervisor.Ref{}, err
		}
		if r.Quiesce {
			err = quiesced(sure, h, id, r.Name)
		}
		return hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: r.Name, Name: r.Name}, err
	})
}

// taken looks for a snapshot when the answer to its creation was lost. libvirt
// lists a snapshot while it makes it, and removes it from the list if it
// fails, so the end of that job comes first.
func taken(ctx context.Context, h *fleet.Host, id hypervisor.VMID, name string, lost error) error {
	for busy := true; busy; {
		err := h.AgainOn(ctx, id, 1, func(dom *libvirt.Domain) (err error) {
			busy, err = working(dom)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w (and the snapshot: %w)", lost, err)
		}
		if busy {
			time.Sleep(fleet.PollEvery)
		}
	}
	err := h.AgainOn(ctx, id, 1, func(dom *libvirt.Domain) error {
		s, err := dom.SnapshotLookupByName(name, 0)
		if err != nil {
			return err
		}
		return s.Free()
	})
	if err != nil {
		return fmt.Errorf("%w (and the snapshot: %w)", lost, err)
	}
	return nil
}

// working reports whether libvirt runs a job on a machine.
func working(dom *libvirt.Domain) (bool, error) {
	j, err := dom.GetJobStats(0)
	if libvirtx.Kind(err) == hypervisor.ErrInvalidState { // it is off
		return false, nil
	}
	return err == nil && j.Type != libvirt.DOMAIN_JOB_NONE && j.Type != libvirt.DOMAIN_JOB_COMPLETED, err
}

// quiesced notes that a snapshot's file systems were frozen.
func quiesced(ctx context.Context, h *fleet.Host, id hypervisor.VMID, name string) error {
	return h.AgainOn(ctx, id, 2, func(dom *libvirt.Domain) error {
		_, mark, err := libvirtx.Inactive(dom)
		if err != nil || slices.Contains(mark.Quiesced, name) {
			return err
		}
		mark.Quiesced = append(mark.Quiesced, name)
		return libvirtx.MarkDomain(dom, mark)
	})
}

// snapshot returns the images that it made, and whether libvirt was asked for
// the snapshot.
func snapshot(ctx context.Context, c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, r hypervisor.SnapshotRequest, j *job.Job) (made []libvirtx.Volume, asked bool, err error) {
	s, err := libvirtx.State(dom)
	if err != nil {
		return nil, false, err
	}
	x, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return nil, false, err
	}
	on := s == hypervisor.StateRunning || s == hypervisor.StatePaused
	switch {
	case mark.Role != "":
		return nil, false, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
	case fleet.IsTemplate(x, mark):
		return nil, false, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "a template's disks never change: deploy from it, or turn it into a machine first")
	case s == hypervisor.StateSuspended:
		return nil, false, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is suspended, its saved RAM names its present images: resume it or power it off first")
	case r.Memory && !on:
		return nil, false, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s and has no RAM to keep: start it, or leave Memory out", s)
	case r.Memory && passthrough(x):
		return nil, false, hypervisor.Unsupported(id.Ref(), capability.SnapshotMemory, hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved: detach it, or leave Memory out")
	case r.Quiesce && !agentConnected(x):
		return nil, false, hypervisor.Unsupported(id.Ref(), capability.SnapshotQuiesce, hypervisor.ReasonToolsMissing, agentRemedy)
	}
	if old, err := dom.SnapshotLookupByName(r.Name, 0); err == nil {
		_ = old.Free() // a local reference
		return nil, false, hypervisor.Errorf(hypervisor.ErrExists, hypervisor.SnapshotID(r.Name).Ref(), "the machine has a snapshot of this name: libvirt wants unique names")
	}
	if err := libvirtx.Whole(x, id.Ref(), capability.SnapshotDisk); err != nil {
		return nil, false, err
	}
	disks := libvirtx.Writable(x)
	if len(disks) == 0 {
		return nil, false, hypervisor.Unsupported(id.Ref(), capability.SnapshotDisk, hypervisor.ReasonConfig, "the machine has no disk to snapshot")
	}
	j.Phase("freezing", -1)
	doc := libvirtxml.DomainSnapshot{Name: r.Name, Description: r.Description, Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}}
	flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC
	if r.Memory {
		file := path.Join(path.Dir(libvirtx.DiskPath(disks[0])), string(id)+".ram."+libvirtx.Nonce()+".mem")
		doc.Memory = &libvirtxml.DomainSnapshotMemory{Snapshot: "external", File: file}
	} else {
		flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
	}
	if r.Quiesce {
		flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_QUIESCE
	}
	made, over, err := overlays(c, string(id), x)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return made, false, err
	}
	doc.Disks = over
	if err := createSnapshot(dom, doc, flags); err != nil || !on {
		return made, true, err
	}
	if err := checkChain(ctx, c, dom, id, made); err != nil {
		if s, ferr := dom.SnapshotLookupByName(r.Name, 0); ferr == nil {
			err = errors.Join(err, s.Delete(libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY), s.Free())
		}
		return made, false, err
	}
	return made, true, nil
}

func createSnapshot(dom *libvirt.Domain, x libvirtxml.DomainSnapshot, flags libvirt.DomainSnapshotCreateFlags) error {
	doc, err := x.Marshal()
	if err != nil {
		return err
	}
	s, err := dom.CreateSnapshotXML(doc, flags)
	if err != nil {
		return err
	}
	return s.Free()
}

// overlays makes an empty image on each writable disk of a definition. Images
// that are made beforehand and passed with REUSE_EXT are known to their pool.
func overlays(c *libvirt.Connect, uuid string, x *libvirtxml.Domain) ([]libvirtx.Volume, *libvirtxml.DomainSnapshotDisks, error) {
	pools, err := libvirtx.Pools(c)
	if err != nil {
		return nil, nil, err
	}
	list := &libvirtxml.DomainSnapshotDisks{}
	var made []libvirtx.Volume
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if k.Target == nil {
			continue
		}
		if !slices.Contains(libvirtx.Writable(x), k) {
			list.Disks = append(list.Disks, libvirtxml.DomainSnapshotDisk{Name: k.Target.Dev, Snapshot: "no"})
			continue
		}
		if err := shallow(c, pools, k); err != nil {
			return made, nil, err
		}
		v, err := fleet.Overlay(c, pools, uuid, k.Target.Dev, libvirtx.DiskPath(k), libvirtx.Pool{})
		if v.Name != "" {
			made = append(made, v)
		}
		if err != nil {
			return made, nil, err
		}
		list.Disks = append(list.Disks, libvirtxml.DomainSnapshotDisk{Name: k.Target.Dev, Snapshot: "external",
			Driver: &libvirtxml.DomainDiskDriver{Type: "qcow2"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: v.Path}}})
	}
	return made, list, nil
}
