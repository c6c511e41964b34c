package hyperv

import (
	"context"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// CIM_DataFile sees only files of local disks and cluster volumes. Files on a
// share are read through the image service, and nothing in WMI removes them.

func onShare(path string) bool { return strings.HasPrefix(path, `\\`) }

// removable refuses to remove images that are on a share, before anything is
// touched.
func (h *host) removable(on hypervisor.Ref, c capability.Name, paths ...string) error {
	for _, p := range paths {
		if onShare(p) {
			return hypervisor.Unsupported(on, c, hypervisor.ReasonPlatform, "image "+p+" is on a share, where the host's WMI removes no files: keep it, and remove it on the file server")
		}
	}
	return nil
}

// removeShared is like removeFile, for an image on a share. It is not an
// error if the image service reports that the file does not exist.
func (d *driver) removeShared(ctx context.Context, s cim.Session, path string) error {
	img, err := cim.First(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ImageManagementService", nil)), "the image service")
	if err != nil {
		return err
	}
	img.Class = "Msvm_ImageManagementService"
	if _, err := readImage(ctx, s, img.Self(""), path); cim.KindOf(err) == cim.NotFound {
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrUnsupported, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: path}, "%s is on a share, where the host's WMI removes no files: remove it on the file server", path)
}

// sharedImage reports whether an image is on a share that the host can read.
// For a CD image this is found out when it is attached.
func (h *host) sharedImage(ctx context.Context, s cim.Session, id hypervisor.VolumeID, path string) error {
	if formatOf(path) == "iso" {
		return nil
	}
	img, err := h.images(ctx, s)
	if err != nil {
		return err
	}
	if _, err := readImage(ctx, s, img, path); refused(err) {
		return hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "host %s reads no image at %s: look whether it is there and whether the host's account may read it: %w", h.id, path, err)
	} else if err != nil {
		return err
	}
	return nil
}
