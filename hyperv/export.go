package hyperv

import (
	"context"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Values of Msvm_VirtualSystemExportSettingData.CopySnapshotConfiguration and
// .CaptureLiveState.
const (
	exportNoSnapshots      = uint8(1)
	exportOneSnapshot      = uint8(2)
	captureCrashConsistent = uint8(0)
)

// exportDefinition writes the definition of a machine, or of one of its
// snapshots, without images, into a folder of its own. It returns the path of
// the file.
func (o *op) exportDefinition(m *machine, from *cim.Instance) (string, error) {
	dir := join(join(o.h.vmPath, "anyvisor"), randomHex(8))
	e := cim.NewEmbedded("Msvm_VirtualSystemExportSettingData",
		"CopyVmStorage", false, "CopyVmRuntimeInformation", false, "CreateVmExportSubdirectory", false)
	id := string(m.id)
	if from == nil {
		e.Set("CopySnapshotConfiguration", exportNoSnapshots)
	} else {
		e.Set("CopySnapshotConfiguration", exportOneSnapshot).Set("SnapshotVirtualSystem", m.snapshotRef(from))
	}
	if m.state != hypervisor.StateOff {
		e.Set("CaptureLiveState", captureCrashConsistent)
	}
	file := join(join(dir, "Virtual Machines"), id+".vmcx")
	o.Remove(hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(o.h.volume(file))}, func(ctx context.Context) error { return o.d.removeExport(ctx, o.s, file) })
	look := m.done(func(ctx context.Context) (bool, error) { f, err := fileOf(ctx, o.s, file); return f != nil, err })
	_, err := o.call(look, o.h.management(), "ExportSystemDefinition", cim.Arg{Name: "ComputerSystem", Value: m.ref()},
		cim.Arg{Name: "ExportDirectory", Value: dir}, cim.Arg{Name: "ExportSettingData", Value: e})
	return file, err
}

// exported are the extensions of the files that an export has without
// images.
var exported = []string{"vmcx", "vmgs", "vmrs"}

// roots are the settings of an imported machine that name the folders of its
// own files. Without them it is registered in the folder of the export.
func (h *host) roots() []any {
	return []any{"ConfigurationDataRoot", h.vmPath, "SnapshotDataRoot", h.vmPath, "SwapFileDataRoot", h.vmPath}
}

// dropExport removes an export that nothing needs any more.
func (o *op) dropExport(file string) {
	if err := o.d.removeExport(o.ctx, o.s, file); err != nil {
		o.Note("the export of " + file + " stays: " + err.Error())
	}
}

// removeExport removes the definition file of an export, the files of the
// guest's and the runtime state beside it, and the folders. It is not an error
// if there are none.
func (d *driver) removeExport(ctx context.Context, s cim.Session, file string) error {
	dir := parent(parent(file))
	if !definition.MatchString(file) || onShare(file) {
		return d.removeFile(ctx, s, file)
	}
	folders, err := inFolder(ctx, s, "Win32_Directory", dir)
	if err != nil {
		return err
	}
	for _, f := range folders {
		files, err := inFolder(ctx, s, "CIM_DataFile", f.Str("Name"))
		if err != nil {
			return err
		}
		for _, x := range files {
			if n := x.Str("Name"); !slices.Contains(exported, strings.ToLower(x.Str("Extension"))) {
				return hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: n}, "%s is in the folder of an export and is not one of its files: remove it first", n)
			}
			if err := d.removeFile(ctx, s, x.Str("Name")); err != nil {
				return err
			}
		}
		if err := removeFolder(ctx, s, f.Str("Name")); err != nil {
			return err
		}
	}
	if len(folders) == 0 { // it has the file alone, or nothing
		if err := d.removeFile(ctx, s, file); err != nil {
			return err
		}
	}
	return removeFolder(ctx, s, dir)
}

// inFolder lists the files or folders in a folder of a local drive.
// CIM_DataFile answers quickly only if drive and directory are given.
func inFolder(ctx context.Context, s cim.Session, class, dir string) ([]*cim.Instance, error) {
	disk, rest := dir[:2], strings.TrimRight(dir[2:], `\`)+`\`
	return cim.Collect(s.Query(ctx, cim.CIMV2, cim.Select(class, []string{"Name", "FileSize", "Extension"},
		"Drive = "+cim.Quote(strings.ToLower(disk)), "Path = "+cim.Quote(strings.ToLower(rest)))))
}

// removeFolder deletes an empty folder. It is not an error if the folder does
// not exist.
func removeFolder(ctx context.Context, s cim.Session, dir string) error {
	r := cim.Ref{Namespace: cim.CIMV2, Class: "Win32_Directory", Keys: []cim.Key{{Name: "Name", Value: dir}}}
	res, err := cim.Again(func() (*cim.Result, error) { return s.Invoke(ctx, r, "Delete") })
	switch {
	case isGone(err):
		return nil
	case err != nil:
		return err
	case res.Return == 0, res.Return == fileNotFound:
		return nil
	}
	return fileError("remove the folder", dir, res.Return)
}

func parent(path string) string { return path[:max(strings.LastIndexByte(path, '\\'), 0)] }
