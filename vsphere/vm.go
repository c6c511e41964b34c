package vsphere

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
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
	"config.annotation", "config.bootOptions.efiSecureBootEnabled", "config.cpuHotAddEnabled", "config.createDate", "config.files.vmPathName", "config.firmware", "config.guestId",
	"config.hardware.device", "config.hotPlugMemoryLimit", "config.instanceUuid", "config.memoryAllocation", "config.memoryHotAddEnabled", "config.uuid", "config.version",
	"datastore", "guest.net", "network", "parent", "recentTask", "resourcePool", "snapshot", labelPath, tokenPath, basePath)

func (d *driver) vmPaths(detail hypervisor.Detail) []string {
	if detail == hypervisor.DetailBrief {
		return briefPaths
	}
	return d.known(fullPaths)
}

// GetVM reads one machine in one call. Where a running machine has a vGPU, a
// second call finds out which device it is on.
func (d *driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	v, _, err := d.read(ctx, id)
	return v, err
}

// read is like GetVM, and also returns the machine's virtual devices.
func (d *driver) read(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, types.ArrayOfVirtualDevice, error) {
	v, p, err := d.readProps(ctx, id)
	return v, get[types.ArrayOfVirtualDevice](p, "config.hardware.device"), err
}

// readProps is like GetVM, and also returns the properties that it read.
func (d *driver) readProps(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, propMap, error) {
	list, err := d.all(ctx, refSpec([]ref{vmRef(id)}, d.known(fullPaths)))
	if err == nil && len(list) == 0 {
		err = notFound(id.Ref())
	}
	if err != nil {
		if _, gone := faultOf(err).(*types.ManagedObjectNotFound); gone {
			err = hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine (%w)", err)
		}
		return hypervisor.VMInfo{}, nil, err
	}
	conv, err := d.converter(ctx, hypervisor.DetailFull, list)
	if err != nil {
		return hypervisor.VMInfo{}, nil, err
	}
	v := conv.vm(&list[0])
	if v.Name == "" {
		return v, nil, notFound(id.Ref())
	}
	return v, props(list[0]), nil
}

// converter makes VMInfo from objects that were read together.
type converter struct {
	d    *driver
	at   time.Time
	cpus map[ref]int                 // maximum of a machine on a host
	gpus map[ref]hypervisor.DeviceID // the GPU that a machine's vGPU is on, or the only one of a host

	all    bool           // a full reading
	stores map[ref]string // names, where a machine has several
	nets   map[ref]string // the adapters' name for a network, where it is not its ID
}

// converter reads what the machines of a page need besides their own
// properties. A brief page needs nothing.
func (d *driver) converter(ctx context.Context, detail hypervisor.Detail, list []types.ObjectContent) (*converter, error) {
	c := &converter{d: d, at: time.Now()}
	if detail == hypervisor.DetailBrief {
		return c, nil
	}
	c.all = true
	if err := d.folders.fresh(ctx, d); err != nil {
		return nil, err
	}
	if err := c.places(ctx, list); err != nil {
		return nil, err
	}
	hosts, hotAdd := map[ref]bool{}, map[ref]bool{}
	for _, o := range list {
		p := props(o)
		if get[bool](p, "config.cpuHotAddEnabled") {
			hotAdd[p.ref("runtime.host")] = true
		}
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
	if len(hotAdd) > 0 {
		info, err := d.some(ctx, slices.Collect(maps.Keys(hotAdd)), []string{"capability.maxSupportedVcpus"})
		if err != nil {
			return nil, err
		}
		c.cpus = map[ref]int{}
		for _, o := range info {
			c.cpus[o.Obj] = int(get[int32](props(o), "capability.maxSupportedVcpus"))
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
			if len(shared) == 1 { // then a vGPU on this host can be on no other
				c.gpus[o.Obj] = shared[0]
			}
		}
	}
	return c, nil
}

// places reads the names of the datastores of machines that have several. It
// also reads how adapters name networks that they do not name by their IDs:
// those of NSX by NSX's, and distributed port groups by their keys, which
// differ from the IDs where a switch was restored.
func (c *converter) places(ctx context.Context, list []types.ObjectContent) error {
	var stores, opaque, groups []ref
	collect := func(to *[]ref, refs []ref, kind string) {
		for _, r := range refs {
			if r.Type == kind && !slices.Contains(*to, r) {
				*to = append(*to, r)
			}
		}
	}
	for _, o := range list {
		p := props(o)
		if s := p.refs("datastore"); len(s) > 1 {
			collect(&stores, s, "Datastore")
		}
		on := p.refs("network")
		for _, dev := range get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice {
			card, ok := dev.(types.BaseVirtualEthernetCard)
			if !ok {
				continue
			}
			switch b := card.GetVirtualEthernetCard().Backing.(type) {
			case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
				collect(&opaque, on, "OpaqueNetwork")
			case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
				if !slices.ContainsFunc(on, func(r ref) bool { return r.Value == b.Port.PortgroupKey }) {
					collect(&groups, on, "DistributedVirtualPortgroup")
				}
			}
		}
	}
	var err error
	if len(stores) > 0 {
		if c.stores, err = c.d.storeNames(ctx, stores); err != nil {
			return err
		}
	}
	c.nets = map[ref]string{}
	for path, refs := range map[string][]ref{"summary": opaque, "key": groups} {
		if len(refs) == 0 {
			continue
		}
		list, err := c.d.some(ctx, refs, []string{path})
		if err != nil {
			return err
		}
		for _, o := range list {
			p := props(o)
			if s, ok := p["summary"].(types.OpaqueNetworkSummary); ok {
				c.nets[o.Obj] = s.OpaqueNetworkId
			} else if k := p.str("key"); k != "" {
				c.nets[o.Obj] = k
			}
		}
	}
	return nil
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
			b, _ := val.(bool)
			v.Template = v.Template || b
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
	if c.all {
		c.where(&v, props(*o))
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
			v.Description, _, _ = splitNote(x)
			c.making(v, self, x, "")
		case "config.firmware":
			v.Firmware = hypervisor.FirmwareBIOS
			if x == string(types.GuestOsDescriptorFirmwareTypeEfi) {
				v.Firmware = hypervisor.FirmwareUEFI
			}
		case "config.version":
			v.Machine = x
		case "config.guestId":
			v.GuestOS = x
		}
	case bool:
		switch {
		case name == "config.bootOptions.efiSecureBootEnabled":
			v.SecureBoot = x
		case name == "config.cpuHotAddEnabled" && x:
			v.MaxCPUs = c.cpus[hostRef(v.Host)]
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
			v.Addresses = append(v.Addresses, ipaddr.Parse(n.IpAddress...)...)
		}
	case ref:
		switch name {
		case "parent":
			v.Placement.Folder = c.d.folders.path(x)
		case "resourcePool":
			v.Placement.Pool = hypervisor.PoolID(c.d.folders.cluster(x).Value)
		}
	case types.ArrayOfManagedObjectReference:
		for _, r := range x.ManagedObjectReference {
			if name == "recentTask" {
				v.Tasks = append(v.Tasks, hypervisor.TaskID(r.Value))
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
		case baseKey:
			c.making(v, self, "", optionValue(x))
		}
	}
}

// where fills in what takes more than one property: the datastore of the
// machine's own files, the networks of its adapters, and whether its token is
// its own.
func (c *converter) where(v *hypervisor.VMInfo, p propMap) {
	v.Token = ownToken(p)
	v.Placement.Host = v.Host
	if home, ok := homeOf(p.str("config.files.vmPathName"), p.refs("datastore"), c.stores); ok {
		v.Placement.Datastore = hypervisor.DatastoreID(home.Value)
	} else if i := slices.IndexFunc(v.Disks, func(d hypervisor.DiskInfo) bool { return !d.CDROM && d.Datastore != "" }); i >= 0 {
		v.Placement.Datastore = v.Disks[i].Datastore
	}
	for i, n := range v.NICs {
		for _, r := range p.refs("network") {
			if k, ok := c.nets[r]; ok && k == string(n.Network) {
				v.NICs[i].Network = hypervisor.NetworkID(r.Value)
			}
		}
	}
}

// making marks a machine as a template whose base is being made.
func (c *converter) making(v *hypervisor.VMInfo, self ref, note, option string) {
	if marked, _ := c.d.baseMark(self, note, option); marked {
		v.Template = true
	}
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
			if a.Profile != "" && v.State == hypervisor.StateRunning {
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
		return hypervisor.StateRunning
	case types.VirtualMachinePowerStatePoweredOff:
		return hypervisor.StateOff
	case types.VirtualMachinePowerStateSuspended:
		return hypervisor.StateSuspended
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
