package xen

import "maps"

// untold are the fields of results that XAPI does not report.
var untold = map[string]string{
	"VMInfo.Placement.Folder":         "a pool has no folders",
	"VMInfo.CreatedAt":                "XAPI keeps it of provisioned machines alone",
	"TemplateInfo.Placement.Folder":   "a pool has no folders",
	"TemplateInfo.Placement.Host":     "a template that was given no host is on none",
	"DiskInfo.Provisioning":           "a property of the storage repository",
	"DiskInfo.Format":                 "the simulator's images don't name theirs",
	"DiskInfo.Bus":                    "a disk is paravirtual and emulated at once",
	"NICInfo.Model":                   "an adapter is paravirtual and emulated at once",
	"VolumeInfo.Provisioning":         "a property of the storage repository",
	"VolumeInfo.Format":               "the simulator's images don't name theirs",
	"HostInfo.CPU.APICVirtualization": "XAPI does not report",
	"HostInfo.NUMA.ID":                "XAPI does not report",
	"HostInfo.NUMA.Threads":           "XAPI does not report",
	"HostInfo.NUMA.MemoryBytes":       "XAPI does not report",
	"NetworkInfo.VLAN":                "no network of the simulator has one",
	"DeviceInfo.GroupPeers":           "no functions of the simulator depend on each other",
	"DeviceInfo.Parent":               "virtual functions are a network's, not devices",
	"DeviceInfo.MaxVFs":               "virtual functions are a network's, not devices",
	"DeviceInfo.VFs":                  "virtual functions are a network's, not devices",
	"DeviceInfo.BARBytes":             "XAPI does not report",
	"DeviceInfo.Driver":               "no device of the simulator has one",
	"HAInfo.Enabled":                  "it is off here",
	"HAInfo.FailuresToTolerate":       "it is off here",
	"HAInfo.DefaultPriority":          "XAPI has no default",
	"Availability.Inherited":          "XAPI has no default",
	"Availability.Protected":          "HA is off here",
	"GuestInfo.HostName":              "the guest agent does not report it",
	"TaskState.Phase":                 "XAPI's tasks have no words",
	"TaskState.BytesDone":             "XAPI's tasks report a fraction",
	"TaskState.BytesTotal":            "XAPI's tasks report a fraction",
	"TaskState.ExpectedDowntime":      "XAPI does not report",
	"TaskState.Notes":                 "nothing else is set for a GPU",
	"MigrateResult.BytesCopied":       "XAPI does not report",
}

// untoldHere are those that a kind of pool does not report besides.
var untoldHere = map[string]map[string]string{
	"single host": {"DatastoreInfo.Shared": "there is one host", "MigrateResult.Host": "a machine that is off is on none"},
	"restricted":  {"SnapshotInfo.SizeBytes": "a snapshot without RAM takes nothing until the machine writes"},
}

// unheard are the fields that XAPI can't honour.
var unheard = map[string]string{
	"ListOptions.PageSize":          "all machines come in one page",
	"VMSpec.Placement.Folder":       "a pool has no folders",
	"CloneOptions.Placement.Folder": "a pool has no folders",
	"Placement.Folder":              "a pool has no folders",
	"Placement.Datastore":           "a template becomes a machine where its disks are",
	"VMSpec.Disks.Provisioning":     "a storage repository has one way to take space",
	"DiskSpec.Provisioning":         "a storage repository has one way to take space",
	"VolumeSpec.Provisioning":       "a storage repository has one way to take space",
	"VMSpec.Disks.Bus":              "disks are paravirtual and emulated at once",
	"DiskSpec.Bus":                  "disks are paravirtual and emulated at once",
	"VMSpec.NICs.Model":             "adapters are paravirtual and emulated at once",
	"NICSpec.Model":                 "adapters are paravirtual and emulated at once",
	"Changes.NextStart":             "XAPI keeps no changes for the next start",
	"MigrateOptions.Pool":           "a pool has no resource pools",
	"MigrateOptions.KeepSource":     "XAPI removes the source's images",
	"DeviceRequest.ID":              "a GPU is chosen from its group when the machine starts",
}

// and adds to a list of fields.
func and(list map[string]string, more map[string]string) map[string]string {
	out := maps.Clone(list)
	maps.Copy(out, more)
	return out
}
