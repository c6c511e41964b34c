package fake

import (
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const version = "2.0"

// DefaultHosts returns n hosts like those of the zero Config: two sockets, 64
// cores, 512 GiB, an NVIDIA M60 (two GPUs) and an H100 with vGPU profiles, a
// network card with SR-IOV, and the console's graphics, which the host needs.
func DefaultHosts(n int) []Host {
	out := make([]Host, n)
	for i := range out {
		out[i] = Host{ID: hypervisor.HostID(fmt.Sprintf("host-%d", i+1)), Name: fmt.Sprintf("fakehost%d", i+1),
			CPUModel: "AMD EPYC 7543", CPUVendor: "AMD", CPUFeatures: []string{"svm", "npt", "avic", "avx2"},
			Sockets: 2, Cores: 64, MemoryBytes: 512 * hypervisor.GiB, Devices: []Device{
				M60("0000:05:00.0", 0, 41), M60("0000:06:00.0", 0, 42), H100("0000:81:00.0", 1, 57), X710("0000:41:00.0", 0, 30), console(),
			}}
	}
	return out
}

// profiles returns the profiles of one GPU. The rows are the maximum vGPUs
// per GPU and the frame buffer in MiB from NVIDIA's "Virtual GPU Software
// User Guide".
func profiles(prefix, suffix string, rows ...[2]int64) (out []hypervisor.VGPUProfile) {
	for _, r := range rows {
		name := fmt.Sprintf("%s-%d%s", prefix, max(r[0]/1024, 0), suffix)
		out = append(out, hypervisor.VGPUProfile{ID: name, Name: name, Bytes: r[0] * hypervisor.MiB, Max: int(r[1])})
	}
	return out
}

// M60 is one of the two GPUs of an NVIDIA Tesla M60 (PCI 10de:13f2) with its
// GRID profiles.
func M60(address string, numa, group int) Device {
	return Device{DeviceInfo: hypervisor.DeviceInfo{Kind: hypervisor.DeviceKindVGPU, ClassCode: 0x030000, Vendor: "10de", Product: "13f2",
		VendorName: "NVIDIA Corporation", ProductName: "GM204GL [Tesla M60]", Address: address, NUMANode: numa, IOMMUGroup: group,
		BARBytes: 16*hypervisor.MiB + 256*hypervisor.MiB + 32*hypervisor.MiB,
		Profiles: profiles("GRID M60", "Q", [2]int64{8192, 1}, [2]int64{4096, 2}, [2]int64{2048, 4}, [2]int64{1024, 8})}}
}

// H100 is an NVIDIA H100 SXM5 80 GB (PCI 10de:2330) with its compute profiles.
func H100(address string, numa, group int) Device {
	return Device{DeviceInfo: hypervisor.DeviceInfo{Kind: hypervisor.DeviceKindVGPU, ClassCode: 0x030200, Vendor: "10de", Product: "2330",
		VendorName: "NVIDIA Corporation", ProductName: "GH100 [H100 SXM5 80GB]", Address: address, NUMANode: numa, IOMMUGroup: group,
		BARBytes: 128*hypervisor.GiB + 48*hypervisor.MiB,
		Profiles: profiles("NVIDIA H100XM", "C", [2]int64{81920, 1}, [2]int64{40960, 2}, [2]int64{20480, 4}, [2]int64{10240, 8}, [2]int64{5120, 16})}}
}

// X710 is an Intel X710 network port (PCI 8086:1572) that can have up to 64
// virtual functions (8086:154c).
func X710(address string, numa, group int) Device {
	return Device{VFProduct: "154c", DeviceInfo: hypervisor.DeviceInfo{Kind: hypervisor.DeviceKindPCI, ClassCode: 0x020000, Vendor: "8086", Product: "1572",
		VendorName: "Intel Corporation", ProductName: "Ethernet Controller X710 for 10GbE SFP+", Address: address, NUMANode: numa,
		IOMMUGroup: group, MaxVFs: 64, VFs: 4, BARBytes: 8*hypervisor.MiB + 32*hypervisor.KiB}}
}

// console is the graphics of the host's own console.
func console() Device {
	return Device{HostUses: "its console", DeviceInfo: hypervisor.DeviceInfo{Kind: hypervisor.DeviceKindPCI, ClassCode: 0x030000, Vendor: "1a03",
		Product: "2000", VendorName: "ASPEED Technology", ProductName: "ASPEED Graphics Family", Address: "0000:02:00.0", NUMANode: 0,
		IOMMUGroup: 20, BARBytes: 32 * hypervisor.MiB}}
}

// furnish makes the hosts, datastores, networks and devices of the Config.
func (b *Backend) furnish() {
	hosts := b.cfg.Hosts
	if hosts == nil {
		hosts = DefaultHosts(2)
	}
	for i, h := range hosts {
		if h.ID == "" {
			h.ID = hypervisor.HostID(fmt.Sprintf("host-%d", i+1))
		}
		def(&h.Name, string(h.ID))
		def(&h.Version, version)
		def(&h.State, hypervisor.HostUp)
		def(&h.Pool, "pool-1")
		def(&h.Sockets, 1)
		def(&h.Cores, 8)
		def(&h.MemoryBytes, 64*hypervisor.GiB)
		def(&h.CPUModel, "Fake CPU")
		devices := h.Devices
		h.Devices = nil
		b.st.Hosts = append(b.st.Hosts, &host{Host: h})
		for _, d := range devices {
			b.addDevice(h.ID, d)
		}
	}
	stores := b.cfg.Datastores
	if stores == nil {
		stores = []Datastore{{ID: "ds-shared", Name: "shared", Type: "nfs", CapacityBytes: 64 * hypervisor.TiB}}
		for _, h := range b.st.Hosts {
			stores = append(stores, Datastore{ID: hypervisor.DatastoreID("ds-" + string(h.ID)), Name: "local-" + h.Name, Type: "dir",
				CapacityBytes: 4 * hypervisor.TiB, Hosts: []hypervisor.HostID{h.ID}})
		}
		stores = append(stores, Datastore{ID: "ds-archive", Name: "archive", Type: "nfs", CapacityBytes: 64 * hypervisor.TiB})
	}
	for _, s := range stores {
		def(&s.Name, string(s.ID))
		def(&s.Type, "dir")
		def(&s.CapacityBytes, hypervisor.TiB)
		b.st.Datastores = append(b.st.Datastores, &datastore{Datastore: s})
	}
	b.st.Networks = slices.Clone(b.cfg.Networks)
	if b.cfg.Networks == nil {
		b.st.Networks = []Network{{ID: "net-1", Name: "default"}, {ID: "net-2", Name: "storage", VLAN: 20}}
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
