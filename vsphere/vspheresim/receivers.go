package vspheresim

import (
	"github.com/vmware/govmomi/vim25/mo"
)

// receivers is what answers the calls on each type of managed object. Calls that are not among the methods of
// the receiver go to govmomi's simulator.
func (s *Sim) receivers() map[string]interface {
	mo.Reference
	bind(*Sim, ref)
} {
	return map[string]interface {
		mo.Reference
		bind(*Sim, ref)
	}{
		"FileManager":            new(fileFront),
		"Folder":                 new(folderFront),
		"VirtualDiskManager":     new(diskFront),
		"Task":                   new(taskFront),
		"VirtualMachine":         new(vmFront),
		"VirtualMachineSnapshot": new(snapshotFront),
	}
}
