package vsphere

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const (
	labelsKey = "anyvisor.labels"
	tokenKey  = "anyvisor.token"
	tokenPath = `config.extraConfig["` + tokenKey + `"]`
	labelPath = `config.extraConfig["` + labelsKey + `"]`
)

var briefPaths = []string{
	"name", "runtime.connectionState", "runtime.host", "runtime.powerState",
	"summary.config.memorySizeMB", "summary.config.numCpu", "summary.config.template",
}

var fullPaths = append(append([]string{}, briefPaths...),
	"config.annotation", "config.cpuHotAddEnabled", "config.createDate", "config.firmware", "config.guestId",
	"config.hardware.device", "config.hotPlugMemoryLimit", "config.memoryAllocation", "config.memoryHotAddEnabled", "config.version",
	"datastore", "guest.net", "parent", "recentTask", "resourcePool", "snapshot", labelPath, tokenPath)

func vmPaths(d hypervisor.Detail) []string {
	if d == hypervisor.Brief {
		return briefPaths
	}
	return fullPaths
}

// GetVM reads one machine in one call, and a second one where a running
// machine has a vGPU, to tell which device it is on.
func (d *driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	v, _, err := d.read(ctx, id)
	return v, err
}

// read is GetVM with the machine's virtual devices.
func (d *driver) read(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, types.ArrayOfVirtualDevice, error) {
	list, err := d.all(ctx, refSpec([]ref{vmRef(id)}, fullPaths))
	if err == nil && len(list) == 0 {
		err = notFound(id.Ref())
	}
	if err != nil {
		if _, gone := faultOf(err).(*types.ManagedObjectNotFound); gone {
			err = hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine (%w)", err)
		}
		return hypervisor.VMInfo{}, types.ArrayOfVirtualDevice{}, err
	}
	conv, err := d.converter(ctx, hypervisor.Full, list)
	if err != nil {
		return hypervisor.VMInfo{}, types.ArrayOfVirtualDevice{}, err
	}
	v := conv.vm(&list[0])
	if v.Name == "" {
		return v, types.ArrayOfVirtualDevice{}, notFound(id.Ref())
	}
	return v, get[types.ArrayOfVirtualDevice](props(list[0]), "config.hardware.device"), nil
}

// converter makes VMInfo of objects that were read together.
type converter struct {
	d    *driver
	at   time.Time
	gpus map[ref]hypervisor.DeviceID // the GPU that a machine's vGPU is on, or the only one of a host
}

// converter reads what the machines of a page need beside their own
// properties: nothing for a brief one.
func (d *driver) converter(ctx context.Context, detail hypervisor.Detail, list []types.ObjectContent) (*converter, error) {
	c := &converter{d: d, at: time.Now()}
	if detail == hypervisor.Brief {
		return c, nil
	}
	if d.isVC() {
		if err := d.folders.fresh(ctx, d); err != nil {
			return nil, err
		}
	}
	hosts := map[ref]bool{}
	for _, o := range list {
		p := props(o)
		if p["runtime.powerState"] != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		for _, dev := range get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice {
			if x, ok := dev.(*types.VirtualPCIPassthrough); ok {
				if _, ok := x.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); ok {
					hosts[p.ref("runtime.host")] = true
				}
			}
		}
	}
	if len(hosts) > 0 {
		var refs []ref
		for h := range hosts {
			refs = append(refs, h)
		}
		info, err := d.some(ctx, refs, []string{"config.graphicsInfo"})
		if err != nil {
			return nil, err
		}
		c.gpus = map[ref]hypervisor.DeviceID{}
		for _, o := range info {
			var shared []hypervisor.DeviceID
			for _, g := range get[types.ArrayOfHostGraphicsInfo](props(o), "config.graphicsInfo").HostGraphicsInfo {
				if g.GraphicsType == string(types.HostGraphicsInfoGraphicsTypeSharedDirect) {
					shared = append(shared, deviceID(o.Obj, g.PciId))
				}
				for _, vm := range g.Vm {
					c.gpus[vm] = deviceID(o.Obj, g.PciId)
				}
			}
			if len(shared) == 1 { // then a vGPU on this host can be nowhere else
				c.gpus[o.Obj] = shared[0]
			}
		}
	}
	return c, nil
}

func (c *converter) vm(o *types.ObjectContent) hypervisor.VMInfo {
	v := hypervisor.VMInfo{ID: hypervisor.VMID(o.Obj.Value), ReadAt: c.at, State: hypervisor.StateUnknown}
	connection := types.VirtualMachineConnectionStateConnected
	for i := range o.PropSet {
		val := o.PropSet[i].Val
		switch o.PropSet[i].Name {
		case "name":
			s, _ := val.(string)
			v.Name = unescape(s)
		case "runtime.powerState":
			s, _ := val.(types.VirtualMachinePowerState)
			v.State = stateOf(s)
		case "runtime.connectionState":
			connection, _ = val.(types.VirtualMachineConnectionState)
		case "runtime.host":
			r, _ := val.(ref)
			v.Host = hypervisor.HostID(r.Value)
		case "summary.config.template":
			v.Template, _ = val.(bool)
		case "summary.config.numCpu":
			n, _ := val.(int32)
			v.CPUs = int(n)
		case "summary.config.memorySizeMB":
			n, _ := val.(int32)
			v.MemoryBytes = int64(n) * hypervisor.MiB
		default:
			c.full(&v, o.Obj, o.PropSet[i].Name, val)
		}
	}
	if connection != types.VirtualMachineConnectionStateConnected {
		v.State = hypervisor.StateUnknown
	}
	if v.DynamicMemory != nil && v.DynamicMemory.MaxBytes < 0 {
		v.DynamicMemory = nil
	}
	return v
}

// full fills in one of the properties that only a full reading has.
func (c *converter) full(v *hypervisor.VMInfo, self ref, name string, val any) {
	switch x := val.(type) {
	case string:
		switch name {
		case "config.annotation":
			v.Description = x
		case "config.firmware":
			v.Firmware = hypervisor.BIOS
			if x == string(types.GuestOsDescriptorFirmwareTypeEfi) {
				v.Firmware = hypervisor.UEFI
			}
		case "config.version":
			v.Machine = x
		case "config.guestId":
			v.GuestOS = x
		}
	case int64:
		v.MaxMemoryBytes = x * hypervisor.MiB
	case time.Time:
		v.CreatedAt = x
	case types.ResourceAllocationInfo:
		// A limit means that the memory may be ballooned between the
		// reservation and it.
		if x.Limit != nil && *x.Limit >= 0 {
			r := &hypervisor.MemoryRange{MaxBytes: *x.Limit * hypervisor.MiB}
			if x.Reservation != nil {
				r.MinBytes = *x.Reservation * hypervisor.MiB
			}
			v.DynamicMemory = r
		}
	case types.ArrayOfVirtualDevice:
		c.devices(v, self, x.VirtualDevice)
	case types.ArrayOfGuestNicInfo:
		for _, n := range x.GuestNicInfo {
			v.Addresses = append(v.Addresses, n.IpAddress...)
		}
	case ref:
		switch name {
		case "parent":
			v.Placement.Folder = c.d.folders.path(x)
		case "resourcePool":
			v.Placement.Pool = hypervisor.PoolID(x.Value)
		}
	case types.ArrayOfManagedObjectReference:
		for _, r := range x.ManagedObjectReference {
			if name == "recentTask" {
				v.Tasks = append(v.Tasks, hypervisor.TaskID(r.Value))
			} else if v.Placement.Datastore == "" {
				v.Placement.Datastore = hypervisor.DatastoreID(r.Value)
			}
		}
	case types.VirtualMachineSnapshotInfo:
		v.Snapshots = countSnapshots(x.RootSnapshotList)
		if x.CurrentSnapshot != nil {
			v.CurrentSnapshot = hypervisor.SnapshotID(x.CurrentSnapshot.Value)
		}
	case types.OptionValue:
		switch x.Key {
		case labelsKey:
			v.Labels = decodeLabels(optionValue(x))
		case tokenKey:
			v.Token = optionValue(x)
		}
	}
	v.Placement.Host = v.Host
}

func (c *converter) devices(v *hypervisor.VMInfo, self ref, list []types.BaseVirtualDevice) {
	for _, dev := range list {
		switch x := dev.(type) {
		case *types.VirtualDisk:
			v.Disks = append(v.Disks, diskInfo(x, list))
		case *types.VirtualCdrom:
			if b, ok := x.Backing.(*types.VirtualCdromIsoBackingInfo); ok && b.FileName != "" {
				i := hypervisor.DiskInfo{ID: hypervisor.DiskID(keyID(x.Key)), CDROM: true, ReadOnly: true, Format: "iso", Bus: busOf(x.ControllerKey, list)}
				if b.Datastore != nil {
					i.Datastore, i.Volume = hypervisor.DatastoreID(b.Datastore.Value), volumeID(*b.Datastore, b.FileName)
				}
				v.Disks = append(v.Disks, i)
			}
		case *types.VirtualPCIPassthrough:
			a := attached(x, hostRef(v.Host))
			if a.Profile != "" && v.State == hypervisor.Running {
				if a.Device = c.gpus[self]; a.Device == "" {
					a.Device = c.gpus[hostRef(v.Host)]
				}
				_, a.Address, _ = strings.Cut(string(a.Device), "/")
			}
			v.Devices = append(v.Devices, a)
		default:
			card, ok := dev.(types.BaseVirtualEthernetCard)
			if !ok {
				continue
			}
			v.NICs = append(v.NICs, nicInfo(card))
			if s, ok := dev.(*types.VirtualSriovEthernetCard); ok {
				v.Devices = append(v.Devices, attachedVF(s, hostRef(v.Host)))
			}
		}
	}
}

func stateOf(s types.VirtualMachinePowerState) hypervisor.PowerState {
	switch s {
	case types.VirtualMachinePowerStatePoweredOn:
		return hypervisor.Running
	case types.VirtualMachinePowerStatePoweredOff:
		return hypervisor.Off
	case types.VirtualMachinePowerStateSuspended:
		return hypervisor.Suspended
	}
	return hypervisor.StateUnknown
}

func countSnapshots(list []types.VirtualMachineSnapshotTree) int {
	n := len(list)
	for _, s := range list {
		n += countSnapshots(s.ChildSnapshotList)
	}
	return n
}

func optionValue(v any) string {
	if o, ok := v.(types.OptionValue); ok && o.Value != nil {
		return fmt.Sprint(o.Value)
	}
	return ""
}
