package vsphere

import "maps"

// untold are the fields of results that vSphere does not report.
var untold = map[string]string{
	"SnapshotInfo.Kind":               "vSphere has one kind",
	"HostInfo.CPU.APICVirtualization": "ESXi lists it for hosts whose processor has it, which the simulator's has not",
	"NetworkInfo.VLAN":                "no network of the simulator has one",
	"NetworkInfo.SRIOV":               "vSphere knows cards that have it, not networks",
	"DeviceInfo.GroupPeers":           "ESXi hides its IOMMU groups",
	"DeviceInfo.Parent":               "a card's functions are not devices of their own",
	"DeviceInfo.BARBytes":             "ESXi reports no memory regions",
	"TaskState.BytesDone":             "tasks report percentages",
	"TaskState.BytesTotal":            "tasks report percentages",
	"TaskState.ExpectedDowntime":      "vMotion reports none",
	"MigrateReport.Warnings.Reason":   "the simulator warns of nothing",
	"MigrateReport.Warnings.Object":   "the simulator warns of nothing",
	"MigrateReport.Warnings.Detail":   "the simulator warns of nothing",
	"MigrateResult.BytesCopied":       "tasks report percentages",
	"Event.Detail":                    "events are changes of properties",
	"Event.Token":                     "a property collector's changes can't be had again",
	"TemplateInfo.Placement.Pool":     "a template is in no pool",
	"DiskInfo.UsedBytes":              "only layoutEx has it, which is too large to read for each machine: Volumes reports it",
}

// unheard are the fields that vSphere can't honour.
var unheard = map[string]string{
	"Changes.NextStart":         "vSphere keeps no changes for the next start",
	"MigrateOptions.KeepSource": "vSphere removes the source's disks once a move is done",
	"ExecRequest.Stdin":         "guest operations have no standard input",
}

// and adds to a list of fields.
func and(list map[string]string, more map[string]string) map[string]string {
	out := maps.Clone(list)
	maps.Copy(out, more)
	return out
}

// What a lone ESXi lacks besides.
var untoldESXi, unheardESXi = map[string]string{"DatastoreInfo.Shared": "there is one host"}, map[string]string{}
