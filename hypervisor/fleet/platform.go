package fleet

import "github.com/anyvisor/anyvisor/hypervisor"

// Work is a kind of work that platforms limit.
type Work string

const (
	WorkMove        Work = "move"         // a live migration, disks stay
	WorkMoveStorage Work = "move-storage" // disks move, with or without the machine
	WorkClone       Work = "clone"        // clones and deployments
)

// PlatformLimit is how much of a kind of work a platform does at the same
// time. 0 means that it has no such limit.
type PlatformLimit struct {
	Driver       string // hypervisor.Description.Driver
	Work         Work
	PerHost      int
	PerDatastore int
	Source       string // where the vendor says so
}

const (
	vmwareLimits = "VMware, vCenter Server and Host Management 6.7, Limits on Simultaneous Migrations: " +
		"https://docs.vmware.com/en/VMware-vSphere/6.7/com.vmware.vsphere.vcenterhost.doc/GUID-25EA5833-03B5-4EDD-A167-87578B8009B3.html"
	microsoftLimits = "Microsoft, Msvm_VirtualSystemMigrationServiceSettingData and Set-VMHost: the defaults of " +
		"MaximumVirtualMachineMigrations and MaximumStorageMigrations, which an administrator may change"
	xapiStorage = "XAPI's error TOO_MANY_STORAGE_MIGRATES(3): https://xen-orchestra.com/blog/beyond-xenserver-limits"
	xapiMove    = "XenServer, Migrate VMs, parallel host evacuation, in batches of 10: " +
		"https://docs.citrix.com/en-us/xenserver/current-release/vms/migrate.html"
)

// PlatformLimits are the limits that vendors document. vCenter lets work above
// them wait; XAPI refuses it.
var PlatformLimits = []PlatformLimit{
	// A host has a cost of 8: a vMotion costs 1, a Storage vMotion 4, other
	// provisioning 1. A datastore has 128: 1 and 16. 8 vMotions need a
	// network of 10 Gbit/s; one of 1 Gbit/s allows 4.
	{"vsphere", WorkMove, 8, 128, vmwareLimits},
	{"vsphere", WorkMoveStorage, 2, 8, vmwareLimits},
	{"vsphere", WorkClone, 8, 0, vmwareLimits},
	{"hyperv", WorkMove, 2, 0, microsoftLimits},
	{"hyperv", WorkMoveStorage, 2, 0, microsoftLimits},
	{"xapi", WorkMove, 10, 0, xapiMove},
	{"xapi", WorkMoveStorage, 3, 0, xapiStorage},
}

// LimitsFor returns the platform's limits for a kind of work, for Plan.Limits.
// Where the vendor documents none, it is 2 per host, as in Host.Evacuate.
func LimitsFor(c *hypervisor.Client, w Work) Limits {
	driver := c.Describe().Driver
	for _, l := range PlatformLimits {
		if l.Driver == driver && l.Work == w {
			return Limits{PerHost: l.PerHost, PerDatastore: l.PerDatastore}
		}
	}
	return Limits{PerHost: 2}
}
