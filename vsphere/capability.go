package vsphere

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const (
	needsVC          = "a stand-alone ESXi host can't do this: connect to the vCenter that manages it"
	noPause          = "vSphere has no paused state: suspend writes the RAM to disk"
	noDirectBoot     = "vSphere boots through firmware only: use a disk or an ISO image"
	noPostCopy       = "vMotion has no post-copy phase"
	noTuning         = "vMotion sets bandwidth, downtime and streams by itself"
	noGuestClock     = "vSphere tells a guest's clock only to who logs in to the guest, and this call carries no login: use Exec"
	noGuestFreeze    = "vSphere freezes a guest only while it takes a quiesced snapshot"
	noWatchResume    = "versions of the property collector belong to one session: Watch begins with a Resync instead"
	noOutput         = "a program of a Windows guest returns its exit code, not its output"
	toolsMissing     = "VMware Tools do not run in the guest: install open-vm-tools or VMware Tools"
	noHotDevice      = "vSphere attaches and detaches passed-through devices while the machine is off"
	passthroughHolds = "a passed-through device holds state that vSphere can't save or move: detach it first, or use a vGPU profile"
	instantVersion   = "instant clones need vSphere 6.7"
)

// rights is what the licences allow.
type rights struct {
	at       time.Time
	edition  string
	all      bool // evaluation, Enterprise Plus and above, or not told
	features map[string]bool
}

const rightsAge = 5 * time.Minute

// licence reads what the licences allow. vCenter tells the licences of the
// hosts together; the best counts for the connection.
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
		if err != nil && kindOf(err) != hypervisor.KindPermission {
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
	yes     = hypervisor.Support{Level: hypervisor.Yes}
	unknown = hypervisor.Support{Level: hypervisor.No, Reason: hypervisor.ReasonNotImplemented, Detail: "this driver does not know the capability"}
)

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.No, Reason: r, Detail: detail}
}

func partly(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.Partial, Reason: r, Detail: detail}
}

// fixed is what holds for every vSphere.
var fixed = map[hypervisor.Capability]hypervisor.Support{
	hypervisor.VMCreate: yes, hypervisor.VMDelete: yes, hypervisor.Labels: yes, hypervisor.Reconfigure: yes,
	hypervisor.BootDirect: no(hypervisor.ReasonPlatform, noDirectBoot), hypervisor.CPUHotAdd: yes, hypervisor.MemoryHotAdd: yes,
	hypervisor.MemoryDynamic: partly(hypervisor.ReasonPlatform, dynamicIsReservation),
	hypervisor.DiskAttach:    yes, hypervisor.DiskHotplug: yes, hypervisor.DiskGrow: yes, hypervisor.DiskGrowLive: yes,
	hypervisor.NICAttach: yes, hypervisor.NICHotplug: yes, hypervisor.PowerShutdown: yes, hypervisor.PowerReset: yes,
	hypervisor.PowerPause: no(hypervisor.ReasonPlatform, noPause), hypervisor.PowerSuspend: yes,
	hypervisor.SnapshotDisk: yes, hypervisor.SnapshotMemory: yes, hypervisor.SnapshotQuiesce: yes,
	hypervisor.MigratePostCopy: no(hypervisor.ReasonPlatform, noPostCopy), hypervisor.MigrateTuning: no(hypervisor.ReasonPlatform, noTuning),
	hypervisor.DeviceHotplug: no(hypervisor.ReasonPlatform, noHotDevice),
	hypervisor.WatchEvents:   yes, hypervisor.WatchResume: no(hypervisor.ReasonPlatform, noWatchResume),
	hypervisor.GuestFacts: yes, hypervisor.GuestExec: yes,
	hypervisor.GuestClock: no(hypervisor.ReasonPlatform, noGuestClock), hypervisor.GuestFreeze: no(hypervisor.ReasonPlatform, noGuestFreeze),
	hypervisor.ReplicationRead: no(hypervisor.ReasonNotImplemented, "vSphere Replication is an appliance with an API of its own: ask that"),
	hypervisor.HostMaintenance: yes, hypervisor.TaskResume: yes, hypervisor.TaskCancel: yes, hypervisor.VolumeManage: yes,
}

// Supports answers from the product, its licences, the hosts and, for a
// machine, its state and configuration.
func (d *driver) Supports(ctx context.Context, c hypervisor.Capability, scope hypervisor.Ref) (hypervisor.Support, error) {
	s, err := d.supports(ctx, c)
	if err != nil || s.Level == hypervisor.No || scope.ID == "" {
		return s, err
	}
	switch scope.Kind {
	case hypervisor.KindOfVM, hypervisor.KindOfTemplate:
		return d.vmSupports(ctx, c, hypervisor.VMID(scope.ID), s)
	case hypervisor.KindOfHost:
		return d.hostSupports(ctx, c, hypervisor.HostID(scope.ID), s)
	case hypervisor.KindOfDevice:
		list, err := d.Devices(ctx, hypervisor.DeviceFilter{ID: hypervisor.DeviceID(scope.ID)})
		switch {
		case err != nil:
			return s, err
		case len(list) == 0:
			return s, notFound(scope)
		case !list[0].Assignable && (c == hypervisor.DevicePCI || c == hypervisor.DeviceVF || c == hypervisor.DeviceVGPU):
			return no(list[0].Reason, list[0].Detail), nil
		}
	}
	return s, nil
}

func (d *driver) supports(ctx context.Context, c hypervisor.Capability) (hypervisor.Support, error) {
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
	case hypervisor.CloneFull, hypervisor.CloneLinked, hypervisor.CloneRunning, hypervisor.CloneFromSnapshot, hypervisor.CloneCustomize, hypervisor.Templates:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		return yes, nil
	case hypervisor.CloneInstant:
		switch {
		case !vc:
			return no(hypervisor.ReasonPlatform, needsVC), nil
		case !d.atLeast(6, 7):
			return no(hypervisor.ReasonAPIVersion, instantVersion), nil
		}
		return yes, nil
	case hypervisor.MigrateLive, hypervisor.MigrateCold, hypervisor.MigrateStorage, hypervisor.MigrateLiveStorage, hypervisor.MigrateBoth, hypervisor.MigrateCross:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		if c == hypervisor.MigrateLive || c == hypervisor.MigrateCold || c == hypervisor.MigrateBoth {
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
		if c != hypervisor.MigrateCold && c != hypervisor.MigrateStorage && c != hypervisor.MigrateLiveStorage {
			s, err = edition("vmotion", "vMotion")
		}
		if err == nil && s.Level == hypervisor.Yes && (c == hypervisor.MigrateLiveStorage || c == hypervisor.MigrateBoth) {
			s, err = edition("svmotion", "Storage vMotion")
		}
		return s, err
	case hypervisor.DevicePCI, hypervisor.DeviceVF, hypervisor.DeviceVGPU, hypervisor.DevicePrepare:
		return d.deviceSupport(ctx, c, edition)
	case hypervisor.HighAvailability:
		return d.haSupport(ctx)
	case hypervisor.PlacementNative:
		if !vc {
			return no(hypervisor.ReasonPlatform, needsVC), nil
		}
		s, err := edition("drs", "DRS")
		if err != nil || s.Level != hypervisor.Yes {
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

// atLeast compares the API version.
func (d *driver) atLeast(major, minor int) bool {
	parts := strings.Split(d.vc.ServiceContent.About.ApiVersion, ".")
	n := func(i int) int {
		if i >= len(parts) {
			return 0
		}
		v, _ := strconv.Atoi(parts[i])
		return v
	}
	return n(0) > major || n(0) == major && n(1) >= minor
}

// deviceSupport looks for a device that could ever serve.
func (d *driver) deviceSupport(ctx context.Context, c hypervisor.Capability, edition func(string, string) (hypervisor.Support, error)) (hypervisor.Support, error) {
	switch c {
	case hypervisor.DeviceVF:
		if s, err := edition("sriov", "SR-IOV"); err != nil || s.Level != hypervisor.Yes {
			return s, err
		}
	case hypervisor.DeviceVGPU:
		if s, err := edition("vgpu", "vGPU"); err != nil || s.Level != hypervisor.Yes {
			return s, err
		}
	}
	list, err := d.hostDevices(ctx, nil)
	if err != nil {
		return hypervisor.Support{}, err
	}
	for _, x := range list {
		switch {
		case c == hypervisor.DeviceVF && x.sriov, c == hypervisor.DeviceVGPU && len(x.Profiles) > 0,
			(c == hypervisor.DevicePCI || c == hypervisor.DevicePrepare) && x.capable:
			return yes, nil
		}
	}
	return no(hypervisor.ReasonNoDevice, "no host has a device that could be given to a machine this way"), nil
}

func (d *driver) vmSupports(ctx context.Context, c hypervisor.Capability, id hypervisor.VMID, s hypervisor.Support) (hypervisor.Support, error) {
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
	case hypervisor.HighAvailability:
		if _, _, _, err := d.protection(ctx, id); kindOf(err) == hypervisor.KindUnsupported {
			return no(hypervisor.ReasonConfig, noClusterHA), nil
		} else if err != nil {
			return s, err
		}
	case hypervisor.PowerShutdown, hypervisor.SnapshotQuiesce, hypervisor.GuestFacts, hypervisor.GuestExec:
		if template {
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		}
		if !tools && state == hypervisor.Running {
			return no(hypervisor.ReasonToolsMissing, toolsMissing), nil
		}
		if c == hypervisor.GuestExec && isWindows(p) {
			return partly(hypervisor.ReasonPlatform, noOutput), nil
		}
	case hypervisor.PowerReset, hypervisor.PowerSuspend:
		if template {
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		}
		if c == hypervisor.PowerSuspend && device != "" {
			return no(hypervisor.ReasonVMPassthrough, passthroughHolds), nil
		}
	case hypervisor.SnapshotDisk:
		if template {
			return no(hypervisor.ReasonIsTemplate, "vSphere makes no snapshots of templates"), nil
		}
	case hypervisor.SnapshotMemory, hypervisor.MigrateLive, hypervisor.MigrateBoth, hypervisor.CloneInstant:
		switch {
		case template:
			return no(hypervisor.ReasonIsTemplate, "a template does not run"), nil
		case device != "":
			return no(hypervisor.ReasonVMPassthrough, passthroughHolds), nil
		}
	case hypervisor.CPUHotAdd:
		if state == hypervisor.Running && !get[bool](p, "config.cpuHotAddEnabled") {
			return no(hypervisor.ReasonHotAddOff, hotAddOff), nil
		}
	case hypervisor.MemoryHotAdd:
		if state == hypervisor.Running && !get[bool](p, "config.memoryHotAddEnabled") {
			return no(hypervisor.ReasonHotAddOff, hotAddOff), nil
		}
	case hypervisor.DiskGrow, hypervisor.DiskGrowLive:
		if n := countSnapshots(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList); n > 0 {
			return no(hypervisor.ReasonVMSnapshots, "vSphere grows no disk of a machine with snapshots"), nil
		}
	case hypervisor.DevicePCI, hypervisor.DeviceVF, hypervisor.DeviceVGPU:
		if state != hypervisor.Off {
			return no(hypervisor.ReasonVMState, noHotDevice), nil
		}
	}
	return s, nil
}

func (d *driver) hostSupports(ctx context.Context, c hypervisor.Capability, id hypervisor.HostID, s hypervisor.Support) (hypervisor.Support, error) {
	switch c {
	case hypervisor.DevicePCI, hypervisor.DeviceVF, hypervisor.DeviceVGPU, hypervisor.DevicePrepare:
		h := hostRef(id)
		list, err := d.hostDevices(ctx, &h)
		if err != nil {
			return s, err
		}
		for _, x := range list {
			switch {
			case c == hypervisor.DeviceVF && x.sriov, c == hypervisor.DeviceVGPU && len(x.Profiles) > 0,
				(c == hypervisor.DevicePCI || c == hypervisor.DevicePrepare) && x.capable:
				return s, nil
			}
		}
		return no(hypervisor.ReasonNoDevice, "the host has no device that could be given to a machine this way"), nil
	}
	return s, nil
}
