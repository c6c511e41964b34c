package hvsim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
)

// gpuP reports whether the host supports GPU partitioning: from Server 2019 on, whose class list has the classes [G]. Their pages
// name Server 2016 and client 1703; that 14393 lacks them is believed.
func (h *Host) gpuP() bool {
	return h.virt != nil && h.cfg.Build >= 17763 && h.cfg.Edition != HyperVServer
}

// units is the scale of the share properties; VRAM is in bytes, the rest in units of a whole GPU (believed).
const units = uint64(1000000000)

// addPartitionable shows a GPU as Msvm_PartitionableGpu [G: properties].
func (h *Host) addPartitionable(p *pciDevice) {
	if p.gpu.VRAM == 0 {
		p.gpu.VRAM = 16 << 30
	}
	name := `\\?\` + strings.ReplaceAll(p.path(false), `\`, "#") + `#{064092b3-625e-43bf-9eb5-dc845897dd59}\GPUPARAV`
	i := h.virt.new("Msvm_PartitionableGpu").Set("CreationClassName", "Msvm_PartitionableGpu").Set("Name", name).Set("ElementName", p.dev.Name)
	counts := make([]any, len(p.gpu.PartitionCounts))
	for n, c := range p.gpu.PartitionCounts {
		counts[n] = c
	}
	i.Set("ValidPartitionCounts", counts)
	h.share(i, p, slices.Max(p.gpu.PartitionCounts))
	p.partition = h.virt.add(i)
}

func (h *Host) share(i *cimx.Instance, p *pciDevice, count uint16) {
	i.Set("PartitionCount", count)
	for _, k := range []struct {
		name  string
		total uint64
	}{{"VRAM", p.gpu.VRAM}, {"Encode", units}, {"Decode", units}, {"Compute", units}} {
		part := k.total / uint64(count)
		i.Set("Total"+k.name, k.total).Set("Available"+k.name, k.total).Set("MinPartition"+k.name, uint64(0)).Set("MaxPartition"+k.name, part).Set("OptimalPartition"+k.name, part)
	}
}

// setPartitionCount is a Put of PartitionCount [D: Msvm_PartitionableGpu].
func (h *Host) setPartitionCount(i, next *cimx.Instance) error {
	p := h.deviceOf(i)
	n := uint16(next.Uint("PartitionCount"))
	if p == nil || !slices.Contains(p.gpu.PartitionCounts, n) {
		return wbem.Errorf(wbem.InvalidParameter, "PartitionCount")
	}
	if h.partitionsInUse(p) > 0 {
		return wbem.Errorf(wbem.Failed, "the GPU is in use")
	}
	h.share(i, p, n)
	return nil
}

// partitionsInUse counts the partitions that running machines hold.
func (h *Host) partitionsInUse(p *pciDevice) int {
	n := 0
	for _, m := range h.order {
		for _, d := range m.devices {
			if d.Class.Name == "Msvm_GpuPartition" && strings.Contains(d.Str("DeviceID"), p.path(false)) {
				n++
			}
		}
	}
	return n
}

// placePartition checks a partition setting.
func (c *config) placePartition(r *cimx.Instance, running bool) uint32 {
	if running {
		return rvInvalidState
	}
	p := c.h.partitionSource(r)
	if p == nil {
		return rvInvalidParam
	}
	for _, k := range []string{"VRAM", "Encode", "Decode", "Compute"} {
		lo, hi := p.partition.Uint("MinPartition"+k), p.partition.Uint("MaxPartition"+k)
		if mx := r.Uint("MaxPartition" + k); mx < lo || mx > hi || r.Uint("MinPartition"+k) > hi {
			return rvInvalidParam
		}
	}
	return 0
}

// partitionSource returns the GPU of a partition setting: the one named by HostResource, or else any.
func (h *Host) partitionSource(r *cimx.Instance) *pciDevice {
	want := hostResource(r)
	for _, p := range h.gpus {
		if p.partition == nil {
			continue
		}
		if want == "" {
			return p
		}
		if ref, err := cimx.ParsePath(want); err == nil && h.lookup(ref) == p.partition {
			return p
		}
	}
	return nil
}

// partitionsFree allocates the partitions of a starting machine.
func (m *machine) partitionsFree() *fail {
	need := map[*pciDevice]int{}
	for _, r := range m.cfg.byClass("Msvm_GpuPartitionSettingData") {
		p := m.h.partitionSource(r)
		if p == nil {
			return &fail{code: rvFileNotFound, text: "The GPU of a partition was not found on the host."}
		}
		need[p]++
		if m.h.partitionsInUse(p)+need[p] > int(p.partition.Uint("PartitionCount")) {
			return &fail{code: rvOutOfMemory, text: fmt.Sprintf("Virtual machine '%s' could not be started because there are no free partitions on %s.", m.name(), p.dev.Name)}
		}
	}
	return nil
}

// partitions shows the partitions of a running machine.
func (m *machine) partitions() {
	for _, r := range m.cfg.byClass("Msvm_GpuPartitionSettingData") {
		p := m.h.partitionSource(r)
		if p == nil {
			continue
		}
		d := m.h.virt.new("Msvm_GpuPartition").Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", m.id).
			Set("CreationClassName", "Msvm_GpuPartition").Set("DeviceID", r.Str("InstanceID")+`\`+p.path(false)).Set("ElementName", p.dev.Name).Set("EnabledState", 2)
		m.devices = append(m.devices, m.h.virt.add(d))
	}
}
