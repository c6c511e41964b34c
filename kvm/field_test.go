//go:build cgo

package kvm

// untold are the fields of results that libvirt does not report.
var untold = map[string]string{
	"VMInfo.Placement.Pool":         "libvirt has no resource pools",
	"VMInfo.Placement.Folder":       "libvirt has no folders",
	"VMInfo.Addresses":              "the lab's guests have none",
	"TemplateInfo.Placement.Pool":   "libvirt has no resource pools",
	"TemplateInfo.Placement.Folder": "libvirt has no folders",
	"HostInfo.Pool":                 "libvirt has no resource pools",
	"HostInfo.NUMA.ID":              "the lab's hosts have one node",
	"HostInfo.Limits.Disks":         "QEMU has no fixed one",
	"HostInfo.Limits.NICs":          "QEMU has no fixed one",
	"HostInfo.Limits.VMs":           "QEMU has no fixed one",
	"NetworkInfo.VLAN":              "no network of the lab has one",
	"GuestInfo.OS":                  "the lab's guest has no os-release",
	"GuestInfo.Addresses":           "the lab's guests have none",
	"TaskState.BytesDone":           "libvirt reports no progress of a copied image",
	"TaskState.BytesTotal":          "libvirt reports no progress of a copied image",
	"Event.Detail":                  "libvirt's events have no words",
	"Event.Token":                   "libvirt's events can't be had again",
}

// unheard are the fields that libvirt's QEMU, or the lab, can't honour.
var unheard = map[string]string{
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
	"ListOptions.PageSize":          "all machines come in one page",
}
