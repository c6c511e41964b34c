package vsphere

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

const (
	needsVC          = "a stand-alone ESXi host can't do this: connect to the vCenter that manages it"
	noPause          = "vSphere has no paused state: suspend writes the RAM to disk"
	noDirectBoot     = "vSphere boots through firmware only: use a disk or an ISO image"
	noPostCopy       = "vMotion has no post-copy phase"
	noTuning         = "vMotion sets bandwidth, downtime and streams by itself"
	noGuestClock     = "vSphere reports a guest's clock only after a login to the guest, and this call carries no login: use Exec"
	noGuestFreeze    = "vSphere freezes a guest only while it takes a quiesced snapshot"
	noWatchResume    = "versions of the property collector belong to one session: Watch begins with a Resync instead"
	noOutput         = "a program of a Windows guest returns its exit code, not its output"
	toolsMissing     = "VMware Tools do not run in the guest: install open-vm-tools or VMware Tools"
	noHotDevice      = "vSphere attaches and detaches passed-through devices while the machine is off"
	passthroughHolds = "a passed-through device holds state that vSphere can't save or move: detach it first, or use a vGPU profile"
	instantVersion   = "instant clones need vSphere 6.7"
)

// rights are what the licences allow.
type rights struct {
	at       time.Time
	edition  string
	all      bool // evaluation, Enterprise Plus and above, or not reported
	features map[string]bool
}

const rightsAge = 5 * time.Minute

// licence reads what the licences allow. vCenter reports the licences of the
// hosts together; the best applies to the connection.
func (d *driver) licence(ctx context.Context) (*rights, error) {
	d.mu.Lock()
	r := d.rights
	d.mu.Unlock()
	if r != nil && time.Since(r.at) < rightsAge {
		return r, nil
	}
	r = &rights{at: time.Now(), features: map[string]bool{}}
	if m := d.vc.ServiceContent.LicenseManager; m != nil {
		p, err := d.one(ctx, *m, "licenses")
		if err != nil && kindOf(err) != hypervisor.ErrPermission {
			return nil, err
		}
		for _, l := range get[types.ArrayOfLicenseManagerLicenseInfo](p, "licenses").LicenseManagerLicenseInfo {
			if strings.HasPrefix(l.EditionKey, "vc") { // vCenter's own
				continue
			}
			if r.edition == "" {
				r.edition = l.Name
			}
			key := strings.ToLower(l.EditionKey + " " + l.Name)
			for _, best := range []string{"eval", "enterpriseplus", "enterprise plus", "vcf", "cloud foundation", "vsphere foundation", "vvf"} {
				r.all = r.all || strings.Contains(key, best)
			}
			for _, kv := range l.Properties {
				if f, ok := kv.Value.(types.KeyValue); ok && kv.Key == "feature" {
					name, _, _ := strings.Cut(f.Key, ":") // "serialuri:2"
					r.features[name] = true
				}
			}
		}
	}
	// An account that may not read licences, or a server that lists none: the
	// server itself refuses what is not licensed.
	r.all = r.all || len(r.features) == 0
	d.mu.Lock()
	d.rights = r
	d.mu.Unlock()
	return r, nil
}

func (r *rights) has(feature string) bool { return r.all || r.features[feature] }

var (
	yes     = hypervisor.Support{Level: hypervisor.LevelYes}
	unknown = hypervisor.Support{Level: hypervisor.LevelNo, Reason: hypervisor.ReasonNotImplemented, Detail: "this driver does not know the capability"}
)

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelNo, Reason: r, Detail: detail}
}

func partly(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelPartial, Reason: r, Detail: detail}
}

// fixed are the answers that apply to every vSphere.
var fixed = map[capability.Name]hypervisor.Support{
	capability.VMCreate: yes, capability.VMDelete: yes, capability.VMStart: yes,
	capability.HostList: yes, capability.DatastoreList: yes, capability.NetworkList: yes, capability.Labels: yes, capability.Reconfigure: yes,
	capability.BootDirect: no(hypervisor.ReasonPlatform, noDirectBoot), capability.CPUHotAdd: yes, capability.MemoryHotAdd: yes,
	capability.MemoryDynamic: partly(hypervisor.ReasonPlatform, dynamicIsReservation),
	capability.DiskAttach:    yes, capability.DiskHotplug: yes, capability.DiskGrow: yes, capability.DiskGrowLive: yes,
	capability.NICAttach: yes, capability.NICHotplug: yes, capability.PowerShutdown: yes, capability.PowerReset: yes,
	capability.PowerPause: no(hypervisor.ReasonPlatform, noPause), capability.PowerSuspend: yes,
	capability.SnapshotDisk: yes, capability.SnapshotMemory: yes, capability.SnapshotQuiesce: yes,
	capability.MigratePostCopy: no(hypervisor.ReasonPlatform, noPostCopy), capability.MigrateTuning: no(hypervisor.ReasonPlatform, noTuning),
	capability.DeviceHotplug: no(hypervisor.ReasonPlatform, noHotDevice),
	capability.WatchEvents:   yes, capability.WatchResume: no(hypervisor.ReasonPlatform, noWatchResume),
	capability.GuestFacts: yes, capability.GuestExec: yes,
	capability.GuestClock: no(hypervisor.ReasonPlatform, noGuestClock), capability.GuestFreeze: no(hypervisor.ReasonPlatform, noGuestFreeze),
	capability.ReplicationRead: no(hypervisor.ReasonNotImplemented, "vSphere Replication is an appliance with an API of its own: use that API"),
	capability.HostMaintenance: yes, capability.TaskResume: yes, capability.TaskCancel: yes, capability.VolumeManage: yes,
}

// Supports determines its answer from the product, its licences, the hosts
// and, for a machine, its state and configuration.
func (d *driver) Supports(ctx context.Context, c capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	s, err := d.supports(ctx, c)
	if err != nil || s.Level == hypervisor.LevelNo || scope.ID == "" {
		return s, err
	}
	switch scope.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		return d.vmSupports(ctx, c, hypervisor.VMID(scope.ID), s)
	case hypervisor.ObjectHost:
		return d.hostSupports(ctx, c, hypervisor.HostID(scope.ID), s)
	case hypervisor.ObjectDevice:
		list, err := d.Devices(ctx, hypervisor.DeviceFilter{ID: hypervisor.DeviceID(scope.ID)})
		switch {
		case err != nil:
			return s, err
		case len(list) == 0:
			return s, notFound(scope)
		case !list[0].Assignable && (c == capability.DevicePCI || c == capability.DeviceVF || c == capability.DeviceVGPU):
			return no(list[0].Reason, list[0].Detail), nil
		}
	}
	return s, nil
}

func (d *driver) supports(ctx context.Context, c capability.Name) (hypervisor.Support, error) {
	if s, ok := fixed[c]; ok {
		return s, nil
	}
	edition := func(feature, what string) (hypervisor.Support, error) {
		r, err := d.licence(ctx)
		if err != nil {
			return hypervisor.Support{}, err
		}
		if !r.has(feature) {
			return no(hypervisor.ReasonEdition, what+" is not in the edition "+strconv.Quote(r.edition)), nil
		}
		return yes, nil
	}
	vc := d.isVC()
	switch c {
	case capability.CloneFull, capability.CloneLinked, capability.CloneRunning, capability.CloneFromSnapshot, capability.CloneCustomize, capability.Templates:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		return yes, nil
	case capability.CloneInstant:
		switch {
		case !vc:
			return no(hypervisor.ReasonPlatform, needsVC), nil
		case !d.has("InstantClone_Task"):
			return no(hypervisor.ReasonAPIVersion, instantVersion), nil
		}
		return yes, nil
	case capability.MigrateLive, capability.MigrateCold, capability.MigrateStorage, capability.MigrateLiveStorage, capability.MigrateBoth, capability.MigrateCross:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		if c == capability.MigrateLive || c == capability.MigrateCold || c == capability.MigrateBoth {
			hosts, err := d.viewAll(ctx, "HostSystem", []string{"name"})
			if err != nil {
				return hypervisor.Support{}, err
			}
			if len(hosts) < 2 {
				return no(hypervisor.ReasonSingleHost, "there is no second host in this inventory"), nil
			}
		}
		s := yes
		var err error
		if c != capability.MigrateCold && c != capability.MigrateStorage && c != capability.MigrateLiveStorage {
			s, err = edition("vmotion", "vMotion")
		}
		if err == nil && s.Level == hypervisor.LevelYes && (c == capability.MigrateLiveStorage || c == capability.MigrateBoth) {
			s, err = edition("svmotion", "Storage vMotion")
		}
		return s, err
	case capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU, capability.DevicePrepare:
		return d.deviceSupport(ctx, c, edition)
	case capability.HighAvailability:
		return d.haSupport(ctx)
	case capability.PlacementNative:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		s, err := edition("drs", "DRS")
		if err != nil || s.Level != hypervisor.LevelYes {
			return s, err
		}
		list, err := d.computes(ctx)
		for _, c := range list {
			if c.drs {
				return yes, err
			}
		}
		return no(hypervisor.ReasonConfig, "DRS is off in all clusters"), err
	}
	return unknown, nil
}

// deviceSupport looks for a device that could ever serve.
func (d *driver) deviceSupport(ctx context.Context, c capability.Name, edition func(string, string) (hypervisor.Support, error)) (hypervisor.Support, error) {
	switch c {
	case capability.DeviceVF:
		if s, err := edition("sriov", "SR-IOV"); err != nil || s.Level != hypervisor.LevelYes {
			return s, err
		}
	case capability.DeviceVGPU:
		if s, err := edition("vgpu", "vGPU"); err != nil || s.Level != hypervisor.LevelYes {
			return s, err
		}
	}
	list, err := d.hostDevices(ctx, nil)
	if err != nil {
		return hypervisor.Support{}, err
	}
	for _, x := range list {
		switch {
		case c == capability.DeviceVF && x.sriov, c == capability.DeviceVGPU && len(x.Profiles) > 0,
			(c == capability.DevicePCI || c == capability.DevicePrepare) && x.capable:
			return yes, nil
		}
	}
	return no(hypervisor.ReasonNoDevice, "no host has a device that could be given to a machine this way"), nil
}

func (d *driver) vmSupports(ctx context.Context, c capability.Name, id hypervisor.VMID, s hypervisor.Support) (hypervisor.Support, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "guest.toolsRunningStatus", "config.hardware.device",
		"config.cpuHotAddEnabled", "config.memoryHotAddEnabled", "snapshot", "guest.guestFamily", "config.guestId")
	if err != nil {
		return s, err
	}
	state := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))
	tools := p.str("guest.toolsRunningStatus") == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	device := passthroughLabel(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)
	template := get[bool](p, "summary.config.template")
	switch c {
	case capability.HighAvailability:
		if _, _, _, err := d.protection(ctx, id); kindOf(err) == hypervisor.ErrUnsupported {
			return no(hypervisor.ReasonConfig, noClusterHA), nil
		} else if err != nil {
			return s, err
		}
	case capability.PowerShutdown, capability.SnapshotQuiesce, capability.GuestFacts, capability.GuestExec:
		if template {
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		}
		if !tools && state == hypervisor.StateRunning {
			return no(hypervisor.ReasonToolsMissing, toolsMissing), nil
		}
		if c == capability.GuestExec && isWindows(p) {
			return partly(hypervisor.ReasonPlatform, noOutput), nil
		}
	case capability.PowerReset, capability.PowerSuspend:
		if template {
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		}
		if c == capability.PowerSuspend && device != "" {
			return no(hypervisor.ReasonVMPassthrough, passthroughHolds), nil
		}
	case capability.Labels:
		if template {
			return no(hypervisor.ReasonIsTemplate, templateLabels), nil
		}
	case capability.SnapshotDisk:
		if template {
			return no(hypervisor.ReasonIsTemplate, "vSphere makes no snapshots of templates"), nil
		}
	case capability.SnapshotMemory, capability.MigrateLive, capability.MigrateBoth, capability.CloneInstant:
		switch {
		case template:
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		case device != "":
			return no(hypervisor.ReasonVMPassthrough, passthroughHolds), nil
		case c == capability.SnapshotMemory && independentDisk(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) != "":
			return no(hypervisor.ReasonConfig, independentDisk(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)), nil
		}
	case capability.CPUHotAdd:
		if state == hypervisor.StateRunning && !get[bool](p, "config.cpuHotAddEnabled") {
			return no(hypervisor.ReasonHotAddOff, hotAddOff), nil
		}
	case capability.MemoryHotAdd:
		if state == hypervisor.StateRunning && !get[bool](p, "config.memoryHotAddEnabled") {
			return no(hypervisor.ReasonHotAddOff, hotAddOff), nil
		}
	case capability.DiskGrow, capability.DiskGrowLive:
		if n := countSnapshots(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList); n > 0 {
			return no(hypervisor.ReasonVMSnapshots, "vSphere grows no disk of a machine with snapshots"), nil
		}
	case capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU:
		if state != hypervisor.StateOff {
			return no(hypervisor.ReasonVMState, noHotDevice), nil
		}
	}
	return s, nil
}

func (d *driver) hostSupports(ctx context.Context, c capability.Name, id hypervisor.HostID, s hypervisor.Support) (hypervisor.Support, error) {
	switch c {
	case capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU, capability.DevicePrepare:
		h := hostRef(id)
		list, err := d.hostDevices(ctx, &h)
		if err != nil {
			return s, err
		}
		for _, x := range list {
			switch {
			case c == capability.DeviceVF && x.sriov, c == capability.DeviceVGPU && len(x.Profiles) > 0,
				(c == capability.DevicePCI || c == capability.DevicePrepare) && x.capable:
				return s, nil
			}
		}
		return no(hypervisor.ReasonNoDevice, "the host has no device that could be given to a machine this way"), nil
	}
	return s, nil
}
