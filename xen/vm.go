package xen

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Keys in VM.other_config.
const (
	labelKey = "anyvisor:label:"
	tokenKey = "anyvisor:token"
)

// states maps vm_power_state.
var states = map[string]hypervisor.PowerState{
	"Halted": hypervisor.StateOff, "Running": hypervisor.StateRunning, "Paused": hypervisor.StatePaused, "Suspended": hypervisor.StateSuspended,
}

func state(s string) hypervisor.PowerState {
	if p, ok := states[s]; ok {
		return p
	}
	return hypervisor.StateUnknown
}

// fewNamed is the largest number of machines of one name that are read one by
// one.
const fewNamed = 4

// named reads the machines of a name, if there are only few.
func (d *driver) named(ctx context.Context, name string) (vms map[xapi.Ref]vmRec, few bool, err error) {
	var refs []xapi.Ref
	if err := d.c.Call(ctx, &refs, "VM.get_by_name_label", name); err != nil || len(refs) > fewNamed {
		return nil, false, err
	}
	vms, err = records[vmRec](ctx, d, "VM", refs)
	return vms, true, err
}

// ListVMs lists in 3 calls (brief) or 13 (full), in one page. The server
// looks up a name.
func (d *driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	switch {
	case q.Name != "":
		vms, few, err := d.named(ctx, q.Name)
		if err != nil || few && len(vms) == 0 {
			return hypervisor.VMPage{}, err
		}
		if few {
			inv, err := d.of(ctx, slices.Collect(maps.Values(vms))...)
			if err != nil {
				return hypervisor.VMPage{}, err
			}
			return inv.page(vms, q), nil
		}
	case q.Detail == hypervisor.DetailBrief && q.Token == "":
		return d.listBrief(ctx, q)
	}
	inv, err := d.load(ctx)
	if err != nil {
		return hypervisor.VMPage{}, err
	}
	return inv.page(inv.vms, q), nil
}

// page makes the page of a query.
func (inv *inventory) page(vms map[xapi.Ref]vmRec, q hypervisor.VMQuery) hypervisor.VMPage {
	var p hypervisor.VMPage
	for _, ref := range slices.Sorted(maps.Keys(vms)) {
		v := vms[ref]
		if !v.wanted(q) || q.Token != "" && v.Other[tokenKey] != q.Token {
			continue
		}
		i := inv.info(v)
		if q.Host == "" || i.Host == q.Host {
			p.VMs = append(p.VMs, i)
		}
	}
	return p
}

func (d *driver) listBrief(parent context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	var vms map[xapi.Ref]vmBrief
	var metrics map[xapi.Ref]metricsBrief
	var hosts map[xapi.Ref]hostID
	read := time.Now()
	g, ctx := errgroup.WithContext(parent)
	for class, into := range map[string]any{"VM": &vms, "VM_metrics": &metrics, "host": &hosts} {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	var p hypervisor.VMPage
	if err := g.Wait(); err != nil {
		return p, err
	}
	var missing []xapi.Ref
	for _, v := range vms {
		if _, ok := metrics[v.Metrics]; !ok && v.suspect() {
			missing = append(missing, v.Metrics)
		}
	}
	gone, err := d.absent(parent, missing)
	if err != nil {
		return p, err
	}
	p.VMs = make([]hypervisor.VMInfo, 0, len(vms))
	for _, ref := range slices.Sorted(maps.Keys(vms)) {
		v := vms[ref]
		if gone[v.Metrics] {
			v.Metrics = xapi.Null
		}
		i := v.info(metrics[v.Metrics], hosts[v.ResidentOn].UUID, read)
		if v.wanted(q) && (q.Host == "" || i.Host == q.Host) {
			p.VMs = append(p.VMs, i)
		}
	}
	return p, nil
}

func (v *vmBrief) wanted(q hypervisor.VMQuery) bool {
	return !v.IsSnapshot && !v.ControlDomain && v.Template == q.Templates && (q.Name == "" || v.Name == q.Name)
}

// info makes the brief portable value of a record.
func (v *vmBrief) info(m metricsBrief, host string, read time.Time) hypervisor.VMInfo {
	i := hypervisor.VMInfo{ID: hypervisor.VMID(v.UUID), Name: v.Name, State: state(v.PowerState), Host: hypervisor.HostID(host), Template: v.Template, ReadAt: read,
		CPUs: int(v.VCPUsStart), MemoryBytes: v.DynamicMax}
	if v.unseen() {
		i.State = hypervisor.StateUnknown
	}
	if i.State == hypervisor.StateRunning || i.State == hypervisor.StatePaused {
		if m.VCPUs > 0 {
			i.CPUs = int(m.VCPUs)
		}
		if v.DynamicMin < v.DynamicMax && v.MemoryTarget > 0 {
			i.MemoryBytes = v.MemoryTarget
		}
	}
	return i
}

// GetVM reads one machine and what belongs to it.
func (d *driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	inv, err := d.of(ctx, v)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	return inv.info(v), nil
}

// vmRef finds a machine's reference by its uuid.
func (d *driver) vmRef(ctx context.Context, id hypervisor.VMID) (xapi.Ref, error) {
	var ref xapi.Ref
	err := d.c.Call(ctx, &ref, "VM.get_by_uuid", string(id))
	return ref, err
}

// vm reads a machine's or template's record by its uuid. Snapshots and
// control domains are not machines.
func (d *driver) vm(ctx context.Context, id hypervisor.VMID) (xapi.Ref, vmRec, error) {
	ref, v, err := d.anyVM(ctx, id)
	if err == nil && (v.IsSnapshot || v.ControlDomain) {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "this is a snapshot or a control domain, not a machine")
	}
	return ref, v, err
}

func (d *driver) anyVM(ctx context.Context, id hypervisor.VMID) (xapi.Ref, vmRec, error) {
	var v vmRec
	ref, err := d.vmRef(ctx, id)
	if err == nil {
		err = d.c.Call(ctx, &v, "VM.get_record", ref)
	}
	return ref, v, err
}

func snapshotID(inv *inventory, ref xapi.Ref) hypervisor.SnapshotID {
	if s, ok := inv.vms[ref]; ok && s.IsSnapshot {
		return hypervisor.SnapshotID(s.UUID)
	}
	return ""
}

// info makes the portable value of a record.
func (inv *inventory) info(v vmRec) hypervisor.VMInfo {
	m := inv.metrics[v.Metrics]
	if inv.gone[v.Metrics] {
		v.Metrics = xapi.Null
	}
	i := v.vmBrief.info(m.metricsBrief, inv.hosts[v.ResidentOn].UUID, inv.read)
	i.Description, i.MaxCPUs, i.MaxMemoryBytes = v.Description, int(v.VCPUsMax), v.StaticMax
	i.Firmware, i.Machine = hypervisor.Firmware(v.HVMBootParams["firmware"]), v.DomainType
	if i.Firmware == "" && v.DomainType == "hvm" {
		i.Firmware = hypervisor.FirmwareBIOS // the default of HVM_boot_params:firmware
	}
	if v.DynamicMin != v.DynamicMax {
		i.DynamicMemory = &hypervisor.MemoryRange{MinBytes: v.DynamicMin, MaxBytes: v.DynamicMax}
	}
	i.GuestOS = v.Other["anyvisor:guest-os"]
	i.Labels, i.Token = labelsOf(v.Other), v.Other[tokenKey]
	i.CreatedAt = m.Installed.Time
	i.Snapshots, i.CurrentSnapshot = len(v.Snapshots), snapshotID(inv, v.Parent)
	i.Placement.Pool, i.Placement.Host = inv.pool, i.Host
	if h, ok := inv.hosts[v.Affinity]; ok {
		i.Placement.Host = hypervisor.HostID(h.UUID)
	}
	i.SecureBoot = v.Platform["secureboot"] == "true"
	for task := range v.CurrentOperations {
		i.Tasks = append(i.Tasks, hypervisor.TaskID(task))
	}
	i.Disks = inv.disks(v)
	if len(i.Disks) > 0 {
		i.Placement.Datastore = i.Disks[0].Datastore
	}
	for _, r := range v.VIFs {
		f, ok := inv.vifs[r]
		if !ok {
			continue
		}
		i.NICs = append(i.NICs, hypervisor.NICInfo{ID: hypervisor.NICID(f.UUID), MAC: f.MAC, Connected: f.Attached,
			Network: hypervisor.NetworkID(inv.networks[f.Network].UUID)})
	}
	i.Devices = inv.devices(v)
	i.Addresses = inv.guests[v.GuestMetrics].addresses()
	return i
}

func (inv *inventory) disks(v vmRec) []hypervisor.DiskInfo {
	var out []hypervisor.DiskInfo
	var dev []string
	for _, r := range v.VBDs {
		b, ok := inv.vbds[r]
		if !ok || b.Empty {
			continue
		}
		img, ok := inv.vdis[b.VDI]
		if !ok {
			continue
		}
		at, _ := slices.BinarySearchFunc(dev, b.UserDevice, compareDevices)
		dev = slices.Insert(dev, at, b.UserDevice)
		out = slices.Insert(out, at, hypervisor.DiskInfo{ID: hypervisor.DiskID(b.UUID), Volume: hypervisor.VolumeID(img.UUID),
			Datastore: hypervisor.DatastoreID(inv.srs[img.SR].UUID), SizeBytes: img.Size, UsedBytes: img.Used, Format: img.SM["vdi_type"],
			Parent: hypervisor.VolumeID(img.SM["vhd-parent"]), ReadOnly: b.Mode == "RO", CDROM: b.Type == "CD"})
	}
	return out
}

// compareDevices orders user devices by number: "10" after "9".
func compareDevices(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func labelsOf(other map[string]string) map[string]string {
	var out map[string]string
	for k, v := range other {
		if l, ok := strings.CutPrefix(k, labelKey); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[l] = v
		}
	}
	return out
}

// SetLabels replaces the keys of other_config that are labels.
func (d *driver) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	ref, v, err := d.vm(ctx, id)
	if err != nil {
		return err
	}
	// One message sets the whole map, so no reader sees half of the labels.
	other := maps.Clone(v.Other)
	maps.DeleteFunc(other, func(k, _ string) bool { return strings.HasPrefix(k, labelKey) })
	for k, l := range labels {
		other[labelKey+k] = l
	}
	return d.c.Call(ctx, nil, "VM.set_other_config", ref, other)
}
