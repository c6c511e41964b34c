package vspheresim

import (
	"github.com/vmware/govmomi/vim25/mo"
)

// receivers are the objects that answer the calls on each type of managed object. Calls that are not among the methods of the receiver go to
// govmomi's simulator.
func (s *Sim) receivers() map[string]interface {
	mo.Reference
	bind(*Sim, ref)
} {
	return map[string]interface {
		mo.Reference
		bind(*Sim, ref)
	}{
		"CustomFieldsManager":    new(fieldFront),
		"GuestAuthManager":       new(guestAuthFront),
		"GuestProcessManager":    new(guestProcessFront),
		"GuestFileManager":       new(guestFileFront),
		"FileManager":            new(fileFront),
		"Folder":                 new(folderFront),
		"VirtualDiskManager":     new(diskFront),
		"HostDatastoreBrowser":   new(searchFront),
		"HostSystem":             new(hostFront),
		"HostPciPassthruSystem":  new(passthroughFront),
		"HostGraphicsManager":    new(graphicsFront),
		"HostDateTimeSystem":     new(clockFront),
		"EnvironmentBrowser":     new(browserFront),
		"ClusterComputeResource": new(clusterFront),
		"Datacenter":             new(datacenterFront),
		"Datastore":              new(datastoreFront),
		"Task":                   new(taskFront),
		"VirtualMachine":         new(vmFront),
		"VirtualMachineSnapshot": new(snapshotFront),
		"VirtualMachineProvisioningChecker VirtualMachineCompatibilityChecker": new(checkerFront),
	}
}
