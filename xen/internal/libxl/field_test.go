//go:build cgo

package libxl

// untold are the fields of results that libvirt does not report.
var untold = map[string]string{
	"VMInfo.Firmware":               "a PVH machine has no firmware",
	"VMInfo.Addresses":              "the lab's guests have none",
	"VMInfo.Placement.Pool":         "libvirt has no resource pools",
	"VMInfo.Placement.Folder":       "libvirt has no folders",
	"TemplateInfo.Placement.Pool":   "libvirt has no resource pools",
	"TemplateInfo.Placement.Folder": "libvirt has no folders",
	"HostInfo.Pool":                 "libvirt has no resource pools",
	"HostInfo.CPU.Vendor":           "libvirt's Xen driver reports no CPU model",
	"HostInfo.CPU.NestedPaging":     "libvirt's Xen driver does not report it",
	"NICInfo.Model":                 "an adapter of a PVH machine is Xen's own",
}

// unheard are the fields that libvirt's Xen driver can't honour.
var unheard = map[string]string{
	"VMSpec.Firmware":               "a PVH machine has no firmware",
	"VMSpec.SecureBoot":             "a PVH machine has no firmware",
	"VMSpec.Disks.Bus":              "disks are on Xen's own bus",
	"DiskSpec.Bus":                  "disks are on Xen's own bus",
	"VMSpec.Placement.Pool":         "libvirt has no resource pools",
	"VMSpec.Placement.Folder":       "libvirt has no folders",
	"CloneOptions.Placement.Host":   "a clone is made on its source's host",
	"CloneOptions.Placement.Pool":   "libvirt has no resource pools",
	"CloneOptions.Placement.Folder": "libvirt has no folders",
	"Placement.Host":                "a template becomes a machine where it is",
	"Placement.Datastore":           "a template becomes a machine where it is",
	"Placement.Pool":                "libvirt has no resource pools",
	"Placement.Folder":              "libvirt has no folders",
	"MigrateOptions.Pool":           "libvirt has no resource pools",
	"ExecRequest.User":              "the guest agent has no logins",
	"ExecRequest.Password":          "the guest agent has no logins",
}
