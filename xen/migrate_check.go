package xen

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// CheckMigrate combines the driver's own checks and XAPI's
// VM.assert_can_migrate or VM.assert_can_boot_here, which stop at the first
// problem. If the requested host is not suitable, a warning names those that
// are (VM.get_possible_hosts).
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return d.check(ctx, m)
}

func (d *driver) check(ctx context.Context, m *move) (hypervisor.MigrateReport, error) {
	rep := hypervisor.MigrateReport{Method: m.how()}
	block := func(code hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
		rep.Blockers = append(rep.Blockers, hypervisor.Blocker{Reason: code, Object: on, Detail: fmt.Sprintf(format, args...)})
	}
	if m.v.Template {
		block(hypervisor.ReasonIsTemplate, m.on, "this is a template: copy it to the other datastore instead")
	}
	if len(m.v.CurrentOperations) > 0 {
		block(hypervisor.ReasonVMBusy, m.on, "another operation is at work on the machine: wait for it")
	}
	if m.host != xapi.Null && m.host == m.v.ResidentOn && m.sr.IsNull() && m.r.To == nil {
		block(hypervisor.ReasonSameHost, m.r.Host.Ref(), "the machine is on this host already")
	}
	if m.live {
		for _, a := range m.inv.devices(m.v) {
			if !m.inv.movable(a) {
				block(hypervisor.ReasonVMPassthrough, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a.ID)},
					"the machine has device %s, whose state can't be moved: detach it, or move the machine cold", a.ID)
			}
		}
	}
	if m.running {
		for _, r := range m.v.VIFs {
			if vif, ok := m.inv.vifs[r]; ok && virtualFunctions(m.herePIFs, vif.Network) {
				block(hypervisor.ReasonVMPassthrough, hypervisor.Ref{Kind: hypervisor.ObjectNIC, ID: vif.UUID},
					"adapter %s is a virtual function of a card (SR-IOV), whose state can't be moved: detach it, or move the machine cold", vif.Device)
			}
		}
	}
	if m.r.To != nil {
		for _, r := range m.v.VGPUs {
			if m.groupThere(r).IsNull() {
				block(hypervisor.ReasonNoDevice, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: m.inv.vgpus[r].UUID},
					"the other pool has no GPU of type %q: detach the machine's", m.inv.types[m.inv.vgpus[r].Type].Model)
			}
		}
	}
	if !m.host.IsNull() {
		m.checkHost(block)
	}
	if !m.sr.IsNull() {
		m.checkSpace(block)
		for _, a := range m.notOwn() {
			block(hypervisor.ReasonConfig, hypervisor.VolumeID(a.vdi.UUID).Ref(), "image %s (%s) would move too, and is not the machine's alone: detach it first", a.vdi.UUID, a.vdi.Name)
		}
	}
	if len(rep.Blockers) == 0 {
		err := m.assert(ctx, d)
		if err == nil {
			return rep, nil
		}
		if k := kindOf(err); k == hypervisor.ErrUnavailable || k == hypervisor.ErrUnknown && xapi.Code(err) == "" {
			return rep, err
		}
		block(blockerReason(xapi.Code(err)), m.on, "the pool refuses: %v", err)
	}
	if m.host.IsNull() || m.r.To != nil {
		return rep, nil
	}
	var possible []xapi.Ref
	if err := d.c.Call(ctx, &possible, "VM.get_possible_hosts", m.vm); err != nil {
		return rep, err
	}
	for _, h := range possible {
		if h == m.host || h == m.v.ResidentOn {
			continue
		}
		rep.Warnings = append(rep.Warnings, hypervisor.Blocker{Reason: rep.Blockers[0].Reason, Object: hypervisor.HostID(m.there.hosts[h].UUID).Ref(),
			Detail: "the machine can run on host " + m.there.hosts[h].Name + " instead, as the pool sees it"})
	}
	return rep, nil
}

func (m *move) checkHost(block func(hypervisor.ReasonCode, hypervisor.Ref, string, ...any)) {
	h := m.there.hosts[m.host]
	load := m.load[h.Metrics]
	on := m.r.Host.Ref()
	if !load.Live {
		block(hypervisor.ReasonHostDown, on, "the host doesn't answer")
	} else if !h.Enabled {
		block(hypervisor.ReasonMaintenance, on, "the host is disabled: enable it first")
	}
	if m.running && load.Live && (m.host != m.v.ResidentOn || m.r.To != nil) && load.Free < m.v.DynamicMin {
		block(hypervisor.ReasonNoMemory, on, "the host has %d bytes of free memory, the machine needs %d", load.Free, m.v.DynamicMin)
	}
	if !m.sr.IsNull() && !m.reaches(m.host, m.sr) {
		block(hypervisor.ReasonDiskUnreachable, m.r.Storage.Ref(), "the host doesn't reach this datastore")
	}
	if m.r.To != nil {
		if m.sr.IsNull() {
			block(hypervisor.ReasonDiskUnreachable, m.on, "name the datastore of the other pool that takes the disks")
		}
		if m.taken {
			block(hypervisor.ReasonIDTaken, m.on, "the other pool has a machine with this uuid")
		}
	} else if m.sr.IsNull() && m.live && m.localDisks() {
		for _, img := range m.images() {
			if !m.reaches(m.host, img.SR) {
				block(hypervisor.ReasonDiskUnreachable, hypervisor.VolumeID(img.UUID).Ref(), "the host doesn't reach this disk's datastore: name one in Storage that it does reach")
			}
		}
	}
}

func (m *move) checkSpace(block func(hypervisor.ReasonCode, hypervisor.Ref, string, ...any)) {
	var need int64
	for _, img := range m.images() {
		if img.SR != m.sr || m.r.To != nil {
			need += img.Used
		}
	}
	if sr := m.there.srs[m.sr]; sr.Size > 0 && sr.Size-sr.Used < need {
		block(hypervisor.ReasonNoSpace, m.r.Storage.Ref(), "the datastore has %d bytes left, the disks take %d", sr.Size-sr.Used, need)
	}
}

// blockerReason maps the codes of assert_can_migrate and assert_can_boot_here.
func blockerReason(code string) hypervisor.ReasonCode {
	switch code {
	case "LICENCE_RESTRICTION", "FEATURE_RESTRICTED":
		return hypervisor.ReasonEdition
	case "HOST_NOT_ENOUGH_FREE_MEMORY":
		return hypervisor.ReasonNoMemory
	case "VM_HOST_INCOMPATIBLE_VERSION", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE", "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION":
		return hypervisor.ReasonVersion
	case "VM_INCOMPATIBLE_WITH_THIS_HOST", "CPU_INCOMPATIBLE", "HOSTS_NOT_COMPATIBLE":
		return hypervisor.ReasonCPU
	case "VM_REQUIRES_SR", "VM_REQUIRES_VDI", "SUSPEND_IMAGE_NOT_ACCESSIBLE", "VDI_NOT_IN_MAP":
		return hypervisor.ReasonDiskUnreachable
	case "VM_REQUIRES_NETWORK", "VIF_NOT_IN_MAP":
		return hypervisor.ReasonNetworkMissing
	case "VM_HAS_PCI_ATTACHED", "VM_HAS_VGPU", "VM_HAS_SRIOV_VIF", "VM_HAS_VUSBS":
		return hypervisor.ReasonVMPassthrough
	case "VM_LACKS_FEATURE", "VM_NON_SUSPENDABLE":
		return hypervisor.ReasonToolsMissing
	case "VM_BAD_POWER_STATE":
		return hypervisor.ReasonVMState
	case "HOST_DISABLED":
		return hypervisor.ReasonMaintenance
	case "HOST_OFFLINE", "HOST_NOT_LIVE", "CANNOT_CONTACT_HOST":
		return hypervisor.ReasonHostDown
	case "OTHER_OPERATION_IN_PROGRESS", "TOO_MANY_STORAGE_MIGRATES":
		return hypervisor.ReasonVMBusy
	case "SR_FULL", "SR_BACKEND_FAILURE_44":
		return hypervisor.ReasonNoSpace
	case "DUPLICATE_VM":
		return hypervisor.ReasonIDTaken
	case "VDI_IS_ENCRYPTED", "VDI_INCOMPATIBLE_TYPE", "VDI_CBT_ENABLED", "SR_DOES_NOT_SUPPORT_MIGRATION", "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION":
		return hypervisor.ReasonDiskFormat
	}
	return hypervisor.ReasonConfig
}

// assert asks the pool.
func (m *move) assert(ctx context.Context, d *driver) error {
	switch m.how() {
	case "VM.migrate_send":
		args, err := m.sendArgs(ctx)
		if err != nil {
			return err
		}
		return d.c.Call(ctx, nil, "VM.assert_can_migrate", args...)
	case "VM.pool_migrate":
		if !m.running {
			return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
		}
		if err := d.c.Call(ctx, nil, "VM.assert_operation_valid", m.vm, "pool_migrate"); err != nil {
			return err
		}
		return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
	}
	return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
}

// groupThere finds the GPU group of the other pool for a vGPU: one with a GPU
// that offers the same type.
func (m *move) groupThere(vgpu xapi.Ref) xapi.Ref {
	want := m.inv.types[m.inv.vgpus[vgpu].Type]
	for _, g := range m.there.pgpus {
		for _, t := range g.Enabled {
			if have := m.there.types[t]; have.Model == want.Model && have.Vendor == want.Vendor && have.Implementation == want.Implementation {
				return g.Group
			}
		}
	}
	return xapi.Null
}
