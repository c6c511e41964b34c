package xen

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// otherTool works on a simulated pool as XenCenter, xe or a backup tool does: by calls of its
// own.
type otherTool struct {
	backend
	rpc *Session
}

// slot is the userdevice of a foreign disk.
const slot = "5"

func foreignCases(t hypervisortest.T, b backend, c *hypervisor.Client) []hypervisortest.Foreign {
	rpc, err := hypervisor.As[*Session](t.Context(), c, c)
	if err != nil {
		t.Fatalf("As: %v", err)
	}
	o := otherTool{b, rpc}
	return []hypervisortest.Foreign{
		{Name: "read-only-image", Kind: hypervisortest.PartDisk, Add: o.readOnlyImage},
		{Name: "shared-image", Kind: hypervisortest.PartDisk, Add: o.sharedImage},
		{Name: "cd", Kind: hypervisortest.PartDisk, Add: o.cd},
		{Name: "pci-function", Kind: hypervisortest.PartDevice, Add: o.function},
		{Name: "metadata", Kind: hypervisortest.PartSetting, Add: o.metadata},
		{Name: "backup-snapshot", Kind: hypervisortest.PartSnapshot, Snapshot: "backup", Add: o.snapshot},
		{Name: "cloned-disk", Kind: hypervisortest.PartDependant, Add: o.clonedDisk},
	}
}

func (o otherTool) ref(ctx context.Context, class, uuid string) (r xapi.Ref, err error) {
	return r, o.rpc.Call(ctx, &r, class+".get_by_uuid", uuid)
}

// image makes an image in the datastore of a machine's first disk.
func (o otherTool) image(ctx context.Context, id hypervisor.VMID, name string) (vdi xapi.Ref, uuid string, err error) {
	first, err := o.firstDisk(id)
	if err != nil {
		return "", "", err
	}
	sr, err := o.field("VDI", first, "SR")
	if err != nil {
		return "", "", err
	}
	err = o.rpc.Call(ctx, &vdi, "VDI.create", map[string]any{"name_label": name, "name_description": "", "SR": sr, "virtual_size": 16 * hypervisor.MiB, "type": "user",
		"sharable": false, "read_only": false, "other_config": map[string]string{}, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{}})
	if err != nil {
		return "", "", err
	}
	u, err := o.field("VDI", string(vdi), "uuid")
	return vdi, fmt.Sprint(u), err
}

// drive attaches an image to a machine.
func (o otherTool) drive(ctx context.Context, id hypervisor.VMID, vdi xapi.Ref, mode, kind string) error {
	vm, err := o.ref(ctx, "VM", string(id))
	if err != nil {
		return err
	}
	return o.rpc.Call(ctx, nil, "VBD.create", map[string]any{"VM": vm, "VDI": vdi, "userdevice": slot, "bootable": false, "mode": mode, "type": kind,
		"unpluggable": true, "empty": false, "other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{}})
}

// at is the image in a machine's slot.
func (o otherTool) at(id hypervisor.VMID) (string, error) {
	vbds, err := o.field("VM", string(id), "VBDs")
	if err != nil {
		return "", err
	}
	for _, r := range vbds.([]any) {
		if dev, err := o.field("VBD", r.(string), "userdevice"); err != nil || dev != slot {
			continue
		}
		vdi, err := o.field("VBD", r.(string), "VDI")
		return fmt.Sprint(vdi), err
	}
	return "", fmt.Errorf("machine %s has nothing in slot %s: %w", id, slot, hypervisor.ErrNotFound)
}

func (o otherTool) look(_ context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
	if p.Where, err = o.at(id); err != nil {
		return p, err
	}
	p.Content, err = o.content(p.Where)
	return p, err
}

func (o otherTool) content(vdi string) (string, error) {
	if !slices.Contains(o.sim.Refs("VDI"), vdi) {
		return "", fmt.Errorf("image %s: %w", vdi, hypervisor.ErrNotFound)
	}
	blocks, err := o.sim.ReadDisk(vdi)
	return blocks[0], err
}

// disk is a part that is an image in a slot.
func (o otherTool) disk(ctx context.Context, id hypervisor.VMID, vdi xapi.Ref, uuid string) (*hypervisortest.Part, error) {
	p := &hypervisortest.Part{Names: []string{uuid}, SizeBytes: 16 * hypervisor.MiB, Look: o.look,
		Left: func(context.Context) (string, error) { return o.content(string(vdi)) },
		Remove: func(ctx context.Context) error {
			if !slices.Contains(o.sim.Refs("VDI"), string(vdi)) {
				return nil
			}
			return o.rpc.Call(ctx, nil, "VDI.destroy", vdi)
		}}
	vbds, err := o.field("VDI", string(vdi), "VBDs")
	for _, r := range vbds.([]any) {
		var u any
		if u, err = o.field("VBD", r.(string), "uuid"); err == nil {
			p.Names = append(p.Names, u.(string))
		}
	}
	return p, err
}

func (o otherTool) readOnlyImage(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	vdi, uuid, err := o.image(ctx, id, "golden")
	if err == nil {
		err = o.sim.WriteDisk(string(vdi), 0, "golden")
	}
	if err == nil {
		err = o.drive(ctx, id, vdi, "RO", "Disk")
	}
	if err != nil {
		return nil, err
	}
	p, err := o.disk(ctx, id, vdi, uuid)
	p.ReadOnly = true
	return p, err
}

// sharedImage is one that two machines write to, as for a cluster in guests.
func (o otherTool) sharedImage(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	vdi, uuid, err := o.image(ctx, id, "quorum")
	if err == nil {
		err = o.sim.SetField("VDI", string(vdi), "sharable", true)
	}
	if err == nil {
		err = o.sim.WriteDisk(string(vdi), 0, "theirs")
	}
	if err == nil {
		err = o.drive(ctx, id, vdi, "RW", "Disk")
	}
	if err != nil {
		return nil, err
	}
	p, err := o.disk(ctx, id, vdi, uuid)
	p.Shared = true
	p.Write = func(_ context.Context, id hypervisor.VMID, content string) error {
		at, err := o.at(id)
		if err != nil {
			return err
		}
		return o.sim.WriteDisk(at, 0, content)
	}
	return p, err
}

// cd is an ISO image in a drive.
func (o otherTool) cd(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	for _, r := range o.sim.Refs("VDI") {
		sr, err := o.field("VDI", r, "SR")
		if err != nil {
			return nil, err
		}
		if kind, err := o.field("SR", fmt.Sprint(sr), "content_type"); err != nil || kind != "iso" {
			continue
		}
		if err := o.drive(ctx, id, xapi.Ref(r), "RO", "CD"); err != nil {
			return nil, err
		}
		uuid, err := o.field("VDI", r, "uuid")
		if err != nil {
			return nil, err
		}
		p, err := o.disk(ctx, id, xapi.Ref(r), fmt.Sprint(uuid))
		p.ReadOnly, p.Shared, p.SizeBytes, p.Remove = true, true, 0, nil
		return p, err
	}
	return nil, fmt.Errorf("the pool has no ISO image")
}

// function is a PCI function that xe gave to the machine.
func (o otherTool) function(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	const key, value = "pci", "0/0000:00:02.0"
	return o.setting(ctx, id, key, value, "0000:00:02.0")
}

// metadata is what a backup tool wrote into the record.
func (o otherTool) metadata(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	return o.setting(ctx, id, "XenCenter.CustomFields.owner", "team-7", "XenCenter.CustomFields.owner")
}

func (o otherTool) setting(ctx context.Context, id hypervisor.VMID, key, value, name string) (*hypervisortest.Part, error) {
	vm, err := o.ref(ctx, "VM", string(id))
	if err != nil {
		return nil, err
	}
	return &hypervisortest.Part{Names: []string{name}, Look: func(_ context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		all, err := o.field("VM", string(id), "other_config")
		if err != nil {
			return p, err
		}
		v, ok := all.(map[string]any)[key]
		if !ok {
			return p, fmt.Errorf("%s of machine %s: %w", key, id, hypervisor.ErrNotFound)
		}
		p.Content, p.Where = fmt.Sprint(v), string(id)
		if key == "pci" {
			p.Where = value
		}
		return p, nil
	}}, o.rpc.Call(ctx, nil, "VM.add_to_other_config", vm, key, value)
}

// snapshot is one that a backup tool took.
func (o otherTool) snapshot(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	vm, err := o.ref(ctx, "VM", string(id))
	if err != nil {
		return nil, err
	}
	var snap xapi.Ref
	if err := o.rpc.Call(ctx, &snap, "VM.snapshot", vm, "backup", []xapi.Ref{}); err != nil {
		return nil, err
	}
	uuid, err := o.field("VM", string(snap), "uuid")
	return &hypervisortest.Part{Names: []string{"backup", fmt.Sprint(uuid)}, Look: func(_ context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		if !slices.Contains(o.sim.Refs("VM"), string(snap)) {
			return p, fmt.Errorf("snapshot %s: %w", snap, hypervisor.ErrNotFound)
		}
		of, err := o.field("VM", string(snap), "snapshot_of")
		if err != nil {
			return p, err
		}
		if owner, err := o.field("VM", fmt.Sprint(of), "uuid"); err != nil || owner != string(id) {
			return p, fmt.Errorf("snapshot %s of machine %s: %w", snap, id, hypervisor.ErrNotFound)
		}
		if p.Where, err = o.firstDisk(hypervisor.VMID(snap)); err != nil {
			return p, err
		}
		p.Content, err = o.content(p.Where)
		return p, err
	}}, err
}

// clonedDisk is a copy-on-write clone of the machine's disk, as a backup proxy
// makes one.
func (o otherTool) clonedDisk(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	first, err := o.firstDisk(id)
	if err != nil {
		return nil, err
	}
	var vdi xapi.Ref
	if err := o.rpc.Call(ctx, &vdi, "VDI.clone", first); err != nil {
		return nil, err
	}
	uuid, err := o.field("VDI", string(vdi), "uuid")
	return &hypervisortest.Part{Names: []string{fmt.Sprint(uuid)}, Left: func(context.Context) (string, error) { return o.content(string(vdi)) },
		Remove: func(ctx context.Context) error { return o.rpc.Call(ctx, nil, "VDI.destroy", vdi) }}, err
}
