package vspheresim

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// place is the location of a machine.
type place struct {
	folder    ref
	pool      ref
	host      ref
	datastore ref
}

// furnishVMs adds the machines of Config.VMs.
func (s *Sim) furnishVMs(ctx *simulator.Context) error {
	if s.cfg.VMs <= 0 {
		return nil
	}
	for _, e := range append(s.registry().All("ComputeResource"), s.registry().All("ClusterComputeResource")...) {
		c := s.compute(e.Reference())
		prefix := c.Name
		if e.Reference().Type == "ClusterComputeResource" {
			prefix += "_RP0"
		}
		if err := s.addVMs(ctx, c, prefix+"_VM", s.cfg.VMs); err != nil {
			return err
		}
	}
	return nil
}

// AddVMs adds n machines that are powered on to the first cluster (or host), named prefix0, prefix1, … It is for benchmarks: 10,000 machines take
// about a second. Their disks are not files on the datastore.
func (s *Sim) AddVMs(prefix string, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(s.registry().All("ClusterComputeResource"), s.registry().All("ComputeResource")...)
	if len(all) == 0 {
		return fmt.Errorf("vspheresim: no host to put machines on")
	}
	first := all[0]
	for _, e := range all {
		if e.Reference().Type == first.Reference().Type && e.Reference().Value < first.Reference().Value {
			first = e
		}
	}
	return s.addVMs(s.newContext(), s.compute(first.Reference()), prefix, n)
}

func (s *Sim) addVMs(ctx *simulator.Context, c *mo.ComputeResource, prefix string, n int) error {
	if len(c.Host) == 0 || len(c.Datastore) == 0 {
		return fmt.Errorf("vspheresim: %s has no host or no datastore for machines", c.Name)
	}
	dc := s.datacenterOf(c)
	files := n <= 64
	added := make([]*simulator.VirtualMachine, 0, n)
	for i := range n {
		p := place{folder: dc.VmFolder, pool: *c.ResourcePool, host: c.Host[i%len(c.Host)], datastore: c.Datastore[0]}
		m := s.prototype(fmt.Sprintf("%s%d", prefix, i), p)
		vm := s.insert(ctx, m, p, false)
		if files {
			s.touchFiles(&vm.VirtualMachine)
		}
		added = append(added, vm)
	}
	s.linkAll(ctx, added)
	return nil
}

// prototype is a running machine with one disk and one NIC.
func (s *Sim) prototype(name string, p place) *mo.VirtualMachine {
	ds := s.datastore(p.datastore)
	now := time.Now()
	m := new(mo.VirtualMachine)
	m.Name = name
	rspec := types.DefaultResourceConfigSpec()
	no := false
	m.Config = &types.VirtualMachineConfigInfo{
		ChangeVersion: now.UTC().Format(time.RFC3339Nano), Modified: now, Name: name, GuestFullName: "Other (64-bit)", GuestId: "otherGuest64",
		Version: s.release().hardware, Uuid: uuid.NewString(), InstanceUuid: uuid.NewString(), Firmware: "bios",
		Files: types.VirtualMachineFileInfo{
			VmPathName: dsJoin(ds.Name, name, name+".vmx"), SnapshotDirectory: dsJoin(ds.Name, name),
			SuspendDirectory: dsJoin(ds.Name, name), LogDirectory: dsJoin(ds.Name, name),
		},
		Tools:              &types.ToolsConfigInfo{},
		Hardware:           types.VirtualHardware{NumCPU: 1, NumCoresPerSocket: types.NewInt32(1), MemoryMB: 32},
		CpuAllocation:      &rspec.CpuAllocation,
		MemoryAllocation:   &rspec.MemoryAllocation,
		LatencySensitivity: &types.LatencySensitivity{Level: types.LatencySensitivitySensitivityLevelNormal},
		BootOptions:        &types.VirtualMachineBootOptions{},
		CpuHotAddEnabled:   &no, MemoryHotAddEnabled: &no, CreateDate: &now,
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "govcsim", Value: "TRUE"}},
	}
	m.Config.Hardware.Device = s.prototypeDevices(name, p, ds)
	m.Guest = &types.GuestInfo{
		ToolsStatus: types.VirtualMachineToolsStatusToolsNotInstalled, ToolsVersion: "0",
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning), GuestState: "notRunning",
	}
	m.Layout = &types.VirtualMachineFileLayout{}
	m.LayoutEx = &types.VirtualMachineFileLayoutEx{Timestamp: now}
	m.Storage = &types.VirtualMachineStorageInfo{Timestamp: now}
	m.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOn
	m.Runtime.ConnectionState = types.VirtualMachineConnectionStateConnected
	m.Runtime.BootTime = &now
	return m
}

func (s *Sim) prototypeDevices(name string, p place, ds *simulator.Datastore) []types.BaseVirtualDevice {
	var devices object.VirtualDeviceList
	for _, d := range esx.VirtualDevice {
		devices = append(devices, clone(d))
	}
	scsi, _ := devices.CreateSCSIController("pvscsi")
	scsi.GetVirtualDevice().Key = 1000
	scsi.GetVirtualDevice().DeviceInfo = &types.Description{Label: "SCSI controller 0", Summary: "VMware paravirtual SCSI"}
	devices = append(devices, scsi)
	disk := devices.CreateDisk(scsi.(types.BaseVirtualController), ds.Self, dsJoin(ds.Name, name, name+".vmdk"))
	disk.Key = 2000
	disk.CapacityInKB, disk.CapacityInBytes = 10<<20, 10<<30
	disk.DeviceInfo = &types.Description{Label: "Hard disk 1", Summary: "10,485,760 KB"}
	b := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	b.Uuid, b.ContentId = uuid.NewString(), newContentID()
	no := false
	b.Split, b.WriteThrough, b.EagerlyScrub, b.DigestEnabled = &no, &no, &no, &no
	devices = append(devices, disk)

	if net := s.firstNetwork(p.host); net != nil {
		nic := new(types.VirtualVmxnet3)
		nic.Key, nic.ControllerKey, nic.UnitNumber = 4000, 100, types.NewInt32(7)
		nic.DeviceInfo = &types.Description{Label: "Network adapter 1", Summary: net.Name}
		nic.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: net.Name}, Network: &net.Self,
		}
		nic.AddressType, nic.MacAddress = string(types.VirtualEthernetCardMacTypeAssigned), s.newMAC()
		nic.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true, AllowGuestControl: true}
		devices = append(devices, nic)
	}
	return devices
}

func (s *Sim) firstNetwork(host ref) *mo.Network {
	h := s.host(host)
	if h == nil {
		return nil
	}
	for _, r := range h.Network {
		if n, ok := s.registry().Get(r).(*mo.Network); ok {
			return n
		}
	}
	return nil
}

// newMAC is the next address of the range that vCenter assigns from (00:50:56:80:00:00 to 00:50:56:bf:ff:ff).
func (s *Sim) newMAC() string {
	n := 0x800000 + s.nextMAC.Add(1)
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", byte(n>>16), byte(n>>8), byte(n))
}

// insert makes a machine known: it gives it its reference, and puts it on its host, pool, datastores and folder.
// With link false the caller calls linkAll for many machines at once.
func (s *Sim) insert(ctx *simulator.Context, m *mo.VirtualMachine, p place, link bool) *simulator.VirtualMachine {
	vm := &simulator.VirtualMachine{VirtualMachine: *m, DataSets: map[string]*simulator.DataSet{}}
	vm.Self = ref{Type: "VirtualMachine", Value: s.newValue("VirtualMachine")}
	vm.Parent = &p.folder
	host, pool := p.host, p.pool
	vm.Runtime.Host = &host
	if !vm.Config.Template {
		vm.ResourcePool = &pool
	}
	if c := s.computeOfHost(s.host(host)); c != nil && c.EnvironmentBrowser != nil {
		vm.EnvironmentBrowser = *c.EnvironmentBrowser
	}
	vm.AvailableField = simulator.GetCustomFieldsAvailable(ctx, &vm.Self)
	vm.ConfigStatus, vm.OverallStatus = types.ManagedEntityStatusGreen, types.ManagedEntityStatusGreen
	s.applyGuest(vm)
	s.derive(&vm.VirtualMachine)
	if len(vm.Datastore) == 0 {
		vm.Datastore = []ref{p.datastore}
	}
	if st := s.stateOf(vm.Self); vm.Runtime.PowerState == poweredOn {
		st.memory = freshMemory()
	}
	if link {
		s.linkAll(ctx, []*simulator.VirtualMachine{vm})
	}
	return vm
}

// linkAll puts machines into the lists of their folders, hosts, pools and datastores, one change for each list.
func (s *Sim) linkAll(ctx *simulator.Context, vms []*simulator.VirtualMachine) {
	reg := s.registry()
	type list struct {
		obj      mo.Reference
		property string
		refs     []ref
	}
	lists := map[ref]*list{}
	var order []*list
	add := func(at ref, obj mo.Reference, property string, old []ref, vm ref) {
		l := lists[at]
		if l == nil {
			l = &list{obj: obj, property: property, refs: append([]ref(nil), old...)}
			lists[at] = l
			order = append(order, l)
		}
		l.refs = append(l.refs, vm)
	}
	for _, vm := range vms {
		if f := s.folder(folderOf(vm)); f != nil {
			add(f.Self, reg.Get(f.Self), "childEntity", f.ChildEntity, vm.Self)
		}
		if h := s.host(*vm.Runtime.Host); h != nil {
			add(h.Self, h, "vm", h.Vm, vm.Self)
		}
		if vm.ResourcePool != nil {
			if obj, refs := s.poolVMs(*vm.ResourcePool); obj != nil {
				add(obj.Reference(), obj, "vm", *refs, vm.Self)
			}
		}
		for _, r := range vm.Datastore {
			if d := s.datastore(r); d != nil {
				add(d.Self, d, "vm", d.Vm, vm.Self)
			}
		}
	}
	// The folder lists a machine before the registry has it: container views look there when they learn of the machine.
	for _, l := range order {
		if l.property == "childEntity" {
			s.setList(ctx, l.obj, l.property, l.refs)
		}
	}
	for _, vm := range vms {
		reg.Put(vm)
	}
	for _, l := range order {
		if l.property != "childEntity" {
			s.setList(ctx, l.obj, l.property, l.refs)
		}
	}
}

// touchFiles creates the files of a machine, so that a browser of the datastore sees them.
func (s *Sim) touchFiles(m *mo.VirtualMachine) {
	for _, f := range m.LayoutEx.File {
		s.touchFile(m, f.Name)
	}
}

func (s *Sim) touchFile(m *mo.VirtualMachine, name string) {
	p := s.filePath(m, name)
	if p == "" {
		return
	}
	if err := s.root.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return
	}
	f, err := s.root.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	// A disk's file contains its size, which the manager of virtual disks reads.
	for _, d := range disksOf(m.Config.Hardware.Device) {
		for _, link := range chainOf(d) {
			if link == name {
				_ = vmdk.NewDescriptor(vmdk.Extent{Info: filepath.Base(name), Size: d.CapacityInBytes / vmdk.SectorSize}).Write(f)
				return
			}
		}
	}
}

// filePath is the file in the simulator's folder behind a datastore path that a machine's host sees; empty if there is none.
func (s *Sim) filePath(m *mo.VirtualMachine, name string) string {
	d := dsPath(name)
	if m.Runtime.Host == nil {
		return ""
	}
	return s.fileIn(s.datastoreByName(s.host(*m.Runtime.Host), d.Datastore), d.Path)
}
