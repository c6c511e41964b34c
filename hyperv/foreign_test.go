package hyperv

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// otherTool works on a simulated host as Hyper-V Manager or a backup product
// does: by WMI calls of its own.
type otherTool struct {
	*site
	d *driver // for its sessions
	h *hvsim.Host
}

var toolSerial atomic.Uint64

func (s *site) foreignCases(t hypervisortest.T) []hypervisortest.Foreign {
	d, err := connect(t.Context(), s.config, nil)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = d.Close() })
	o := otherTool{s, d, s.host(s.config.Hosts[0])}
	if o.h == nil {
		o.h = s.sim.Host(0)
	}
	return []hypervisortest.Foreign{
		{Name: "physical-disk", Kind: hypervisortest.PartDisk, Add: o.physical},
		{Name: "shared-image", Kind: hypervisortest.PartDisk, Add: o.shared},
		{Name: "dvd", Kind: hypervisortest.PartDisk, Add: o.dvd},
		{Name: "start-action", Kind: hypervisortest.PartSetting, Add: o.startAction},
		{Name: "backup-checkpoint", Kind: hypervisortest.PartSnapshot, Snapshot: "backup", Add: o.checkpoint},
		{Name: "child-image", Kind: hypervisortest.PartDependant, Add: o.child},
	}
}

// call calls a method and waits for its job.
func (o otherTool) call(ctx context.Context, s cim.Session, ref cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	r, err := s.Invoke(ctx, ref, method, args...)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return nil, err
	}
	job, ok := r.Job()
	for ok {
		i, err := s.Get(ctx, job)
		if err != nil {
			return nil, err
		}
		switch n := i.Uint("JobState"); {
		case n == 7:
			return r, nil
		case n > 7:
			return nil, fmt.Errorf("%s: %s", method, i.Str("ErrorDescription"))
		}
		time.Sleep(time.Millisecond)
	}
	return r, nil
}

// add adds a resource to a machine and returns it.
func (o otherTool) add(ctx context.Context, m *machine, e *cim.Embedded) (cim.Ref, error) {
	list := func() ([]*cim.Instance, error) {
		return cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select(e.Class, nil)))
	}
	before, err := list()
	if err != nil {
		return cim.Ref{}, err
	}
	if _, err := o.call(ctx, m.s, m.h.management(), "AddResourceSettings", cim.Arg{Name: "AffectedConfiguration", Value: m.settingsRef()},
		cim.Arg{Name: "ResourceSettings", Value: []*cim.Embedded{e}}); err != nil {
		return cim.Ref{}, err
	}
	after, err := list()
	for _, i := range after {
		id := i.Str("InstanceID")
		if !slices.ContainsFunc(before, func(x *cim.Instance) bool { return x.Str("InstanceID") == id }) && strings.Contains(strings.ToUpper(id), strings.ToUpper(string(m.id))) {
			return m.h.settingRef(e.Class, id), nil
		}
	}
	return cim.Ref{}, fmt.Errorf("nothing was added (%v)", err)
}

// controller finds a machine's SCSI controller.
func (o otherTool) controller(ctx context.Context, m *machine) (cim.Ref, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ResourceAllocationSettingData", nil)))
	for _, r := range rows {
		if r.Str("ResourceSubType") == subSCSI && ownerOf(r.Str("InstanceID")) == string(m.id) {
			return m.h.settingRef("Msvm_ResourceAllocationSettingData", r.Str("InstanceID")), nil
		}
	}
	return cim.Ref{}, fmt.Errorf("machine %s has no SCSI controller (%v)", m.id, err)
}

// drive adds a drive with an image at a place of the controller.
func (o otherTool) drive(ctx context.Context, m *machine, sub string, kind uint16, medium, image string) (names []string, err error) {
	ctl, err := o.controller(ctx, m)
	if err != nil {
		return nil, err
	}
	drive, err := o.add(ctx, m, cim.NewEmbedded("Msvm_ResourceAllocationSettingData", "ResourceType", kind, "ResourceSubType", sub, "Parent", ctl, "AddressOnParent", "5"))
	if err != nil {
		return nil, err
	}
	disk, err := o.add(ctx, m, cim.NewEmbedded("Msvm_StorageAllocationSettingData", "ResourceType", typeImage, "ResourceSubType", medium, "Parent", drive, "HostResource", []string{image}))
	return []string{image, disk.Key("InstanceID")}, err
}

// image makes a file beside the machines.
func (o otherTool) image(ctx context.Context, m *machine, kv ...any) (string, error) {
	img, err := m.h.images(ctx, m.s)
	if err != nil {
		return "", err
	}
	p := fmt.Sprintf(`%s\part-%d.vhdx`, sharedStore, toolSerial.Add(1))
	e := cim.NewEmbedded("Msvm_VirtualHardDiskSettingData", append([]any{"Path", p, "Format", formatVHDX}, kv...)...)
	_, err = o.call(ctx, m.s, img, "CreateVirtualHardDisk", cim.Arg{Name: "VirtualDiskSettingData", Value: e})
	return p, err
}

func (o otherTool) fact(id hypervisor.VMID) (hvsim.Fact, error) {
	for _, f := range o.sim.Machines() {
		if strings.EqualFold(f.ID, string(id)) {
			return f, nil
		}
	}
	return hvsim.Fact{}, fmt.Errorf("machine %s: %w", id, hypervisor.ErrNotFound)
}

// second is a machine's second image.
func (o otherTool) second(_ context.Context, id hypervisor.VMID) (hypervisortest.Place, error) {
	f, err := o.fact(id)
	if err == nil && len(f.Disks) < 2 {
		err = fmt.Errorf("machine %s has %d images: %w", id, len(f.Disks), hypervisor.ErrNotFound)
	}
	if err != nil {
		return hypervisortest.Place{}, err
	}
	return hypervisortest.Place{Where: f.Disks[1], Content: o.host(f.Host).ReadDisk(f.Disks[1])["content"]}, nil
}

// file is the content of an image.
func (o otherTool) file(p string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		if !slices.Contains(o.h.Files(), p) {
			return "", fmt.Errorf("file %s: %w", p, hypervisor.ErrNotFound)
		}
		return "there" + o.h.ReadDisk(p)["content"], nil
	}
}

func (o otherTool) removeFile(ctx context.Context, p string) error {
	if !slices.Contains(o.h.Files(), p) {
		return nil
	}
	s, err := o.d.hosts[0].session(ctx)
	if err != nil {
		return err
	}
	return o.d.removeFile(ctx, s, p)
}

// shared is an image that a second machine has as well.
func (o otherTool) shared(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := o.image(ctx, m, "Type", uint16(3), "MaxInternalSize", uint64(16*hypervisor.MiB))
	if err != nil {
		return nil, err
	}
	holder, err := o.holder(ctx, m, p)
	if err != nil {
		return nil, err
	}
	names, err := o.drive(ctx, m, subDrive, typeDrive, subVHD, p)
	if err == nil {
		err = o.h.WriteDisk(p, "content", "theirs")
	}
	return &hypervisortest.Part{Names: append(names, string(holder.id)), SizeBytes: 16 * hypervisor.MiB, Shared: true, Look: o.second, Left: o.file(p),
		Write: func(_ context.Context, id hypervisor.VMID, content string) error {
			at, err := o.second(ctx, id)
			if err != nil {
				return err
			}
			return o.h.WriteDisk(at.Where, "content", content)
		},
		Remove: func(ctx context.Context) error {
			return o.drop(ctx, holder, p)
		}}, err
}

// drop removes a holder and its images.
func (o otherTool) drop(ctx context.Context, holder *machine, image string) error {
	f, err := o.fact(holder.id)
	if err != nil {
		return err
	}
	if err := holder.destroy(ctx); err != nil {
		return err
	}
	for _, p := range append(f.Disks, image) {
		if err := o.removeFile(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// holder is another machine with an image, on the machine's host.
func (o otherTool) holder(ctx context.Context, m *machine, image string) (*machine, error) {
	ids, err := o.h.Add(hvsim.Machine{Name: fmt.Sprintf("holder-%d", toolSerial.Add(1)), Disks: []string{fmt.Sprintf(`C:\holder-%d.vhdx`, toolSerial.Add(1))}})
	if err != nil {
		return nil, err
	}
	h, err := o.d.machine(ctx, hypervisor.VMID(ids[0]))
	if err == nil {
		_, err = o.drive(ctx, h, subDrive, typeDrive, subVHD, image)
	}
	return h, err
}

// physical is a disk of the host.
func (o otherTool) physical(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	ctl, err := o.controller(ctx, m)
	if err != nil {
		return nil, err
	}
	name := strings.ToUpper(m.h.name)
	disk := fmt.Sprintf(`\\%s\root\virtualization\v2:Msvm_DiskDrive.CreationClassName="Msvm_DiskDrive",DeviceID="Microsoft:353B3BE8-310C-4CF4-839E-4E1B14616136\\2",SystemCreationClassName="Msvm_ComputerSystem",SystemName="%s"`, name, name)
	r, err := o.add(ctx, m, cim.NewEmbedded("Msvm_ResourceAllocationSettingData", "ResourceType", uint16(17), "ResourceSubType", subPhysical, "Parent", ctl, "AddressOnParent", "5",
		"HostResource", []string{disk}))
	return &hypervisortest.Part{Names: []string{"physical disk", "physical disks", r.Key("InstanceID"), disk}, Shared: true, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ResourceAllocationSettingData", nil)))
		for _, r := range rows {
			if r.Str("ResourceSubType") == subPhysical && strings.EqualFold(ownerOf(r.Str("InstanceID")), string(id)) {
				return hypervisortest.Place{Where: r.Str("HostResource"), Content: "physical"}, nil
			}
		}
		if err == nil {
			err = fmt.Errorf("machine %s has no physical disk: %w", id, hypervisor.ErrNotFound)
		}
		return p, err
	}}, err
}

// dvd is an ISO image in a drive.
func (o otherTool) dvd(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	const iso = `D:\iso\install.iso`
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	o.h.AddFile(iso, 1<<20)
	names, err := o.drive(ctx, m, subDVDDrive, typeDVD, subDVD, iso)
	return &hypervisortest.Part{Names: names, ReadOnly: true, Shared: true, Left: o.file(iso)}, err
}

// startAction has the host start the machine with it.
func (o otherTool) startAction(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	const always = 4
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", m.settings.Str("InstanceID"), "AutomaticStartupAction", uint16(always))
	_, err = o.call(ctx, m.s, m.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
	return &hypervisortest.Part{Names: []string{"AutomaticStartupAction"}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		m, err := o.d.machine(ctx, id)
		if err != nil {
			return p, err
		}
		i, err := m.s.Get(ctx, m.settingsRef())
		if err != nil {
			return p, err
		}
		return hypervisortest.Place{Where: string(id), Content: fmt.Sprint(i.Uint("AutomaticStartupAction"))}, nil
	}}, err
}

// checkpoint is one that another tool made and named.
func (o otherTool) checkpoint(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	old := map[string]bool{}
	for _, s := range m.snaps {
		old[s.Str("InstanceID")] = true
	}
	if _, err := o.call(ctx, m.s, m.h.snapshots(), "CreateSnapshot", cim.Arg{Name: "AffectedSystem", Value: m.ref()}, cim.Arg{Name: "SnapshotSettings", Value: nil},
		cim.Arg{Name: "SnapshotType", Value: snapshotFull}); err != nil {
		return nil, err
	}
	if m, err = o.d.machine(ctx, id); err != nil {
		return nil, err
	}
	for _, s := range userSnapshots(m.snaps) {
		made := s.Str("InstanceID")
		if old[made] {
			continue
		}
		e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", made, "ElementName", "backup")
		_, err := o.call(ctx, m.s, m.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
		return &hypervisortest.Part{Names: []string{"backup", ownerOf(made)}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
			m, err := o.d.machine(ctx, id)
			if err != nil {
				return p, err
			}
			if !slices.ContainsFunc(userSnapshots(m.snaps), func(s *cim.Instance) bool { return s.Str("InstanceID") == made }) {
				return p, fmt.Errorf("checkpoint %s of machine %s: %w", made, id, hypervisor.ErrNotFound)
			}
			rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_StorageAllocationSettingData", diskProps)))
			for _, r := range rows {
				if ownerOf(r.Str("InstanceID")) == ownerOf(made) && r.Str("ResourceSubType") == subVHD {
					p.Where = r.Str("HostResource")
					p.Content, err = o.file(p.Where)(ctx)
					return p, err
				}
			}
			return p, err
		}}, err
	}
	return nil, fmt.Errorf("machine %s has no new checkpoint", id)
}

// child is a differencing image on the machine's, of another machine.
func (o otherTool) child(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	m, err := o.d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	f, err := o.fact(id)
	if err != nil {
		return nil, err
	}
	p, err := o.image(ctx, m, "Type", vhdDifferencing, "ParentPath", f.Disks[0])
	if err != nil {
		return nil, err
	}
	holder, err := o.holder(ctx, m, p)
	if err != nil {
		return nil, err
	}
	// A child whose parent has gone or has moved can't be opened.
	whole := func(ctx context.Context) (string, error) {
		o.sim.Advance(time.Minute) // to the end of what the host merges
		if c := o.h.DiskChain(p); len(c) < 2 {
			return "", fmt.Errorf("the parent of %s: %w", p, hypervisor.ErrNotFound)
		}
		return o.file(p)(ctx)
	}
	return &hypervisortest.Part{Names: []string{string(holder.id), p}, Left: whole, Shared: true, Remove: func(ctx context.Context) error {
		return o.drop(ctx, holder, p)
	}}, nil
}
