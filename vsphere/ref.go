package vsphere

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func vmRef(id hypervisor.VMID) ref           { return ref{Type: "VirtualMachine", Value: string(id)} }
func hostRef(id hypervisor.HostID) ref       { return ref{Type: "HostSystem", Value: string(id)} }
func storeRef(id hypervisor.DatastoreID) ref { return ref{Type: "Datastore", Value: string(id)} }
func snapRef(id hypervisor.SnapshotID) ref {
	return ref{Type: "VirtualMachineSnapshot", Value: string(id)}
}
func taskRef(id hypervisor.TaskID) ref { return ref{Type: "Task", Value: string(id)} }

// networkRef guesses the type from the shape of the value: vCenter names
// distributed port groups "dvportgroup-…" and opaque networks "network-o…".
func networkRef(id hypervisor.NetworkID) ref {
	v := string(id)
	switch {
	case strings.HasPrefix(v, "dvportgroup-"):
		return ref{Type: "DistributedVirtualPortgroup", Value: v}
	case strings.HasPrefix(v, "network-o"):
		return ref{Type: "OpaqueNetwork", Value: v}
	}
	return ref{Type: "Network", Value: v}
}

// poolRef guesses likewise: "domain-c…" is a cluster, "domain-s…" a host
// outside of clusters, "resgroup-v…" a vApp.
func poolRef(id hypervisor.PoolID) ref {
	v := string(id)
	switch {
	case strings.HasPrefix(v, "domain-c"):
		return ref{Type: "ClusterComputeResource", Value: v}
	case strings.HasPrefix(v, "domain-s"), v == "ha-compute-res":
		return ref{Type: "ComputeResource", Value: v}
	case strings.HasPrefix(v, "resgroup-v"):
		return ref{Type: "VirtualApp", Value: v}
	}
	return ref{Type: "ResourcePool", Value: v}
}

func refOf(r ref) hypervisor.Ref {
	k := map[string]hypervisor.ObjectKind{
		"VirtualMachine": hypervisor.KindOfVM, "HostSystem": hypervisor.KindOfHost, "Datastore": hypervisor.KindOfDatastore,
		"VirtualMachineSnapshot": hypervisor.KindOfSnapshot, "Task": hypervisor.KindOfTask,
		"Network": hypervisor.KindOfNetwork, "DistributedVirtualPortgroup": hypervisor.KindOfNetwork, "OpaqueNetwork": hypervisor.KindOfNetwork,
		"ResourcePool": hypervisor.KindOfPool, "ClusterComputeResource": hypervisor.KindOfPool, "ComputeResource": hypervisor.KindOfPool,
	}[r.Type]
	if k == "" {
		k = hypervisor.ObjectKind(strings.ToLower(r.Type))
	}
	return hypervisor.Ref{Kind: k, ID: r.Value}
}

func keyID(key int32) string { return strconv.Itoa(int(key)) }

// volumeID joins a datastore and a path ("[name] dir/file.vmdk").
func volumeID(store ref, file string) hypervisor.VolumeID {
	var p object.DatastorePath
	if !p.FromString(file) {
		return hypervisor.VolumeID(store.Value + "/" + file)
	}
	return hypervisor.VolumeID(store.Value + "/" + p.Path)
}

func splitVolume(id hypervisor.VolumeID) (store ref, path string, ok bool) {
	ds, path, ok := strings.Cut(string(id), "/")
	return storeRef(hypervisor.DatastoreID(ds)), path, ok && ds != "" && path != ""
}

// Names. vSphere escapes /, \ and % in names of inventory objects as %2f, %5c
// and %25, and takes a percent sign that begins such a sequence as it is (API
// reference, ManagedEntity.name).

func escape(name string) string {
	if !strings.Contains(name, "%") {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		b.WriteByte(name[i])
		if name[i] == '%' && i+2 < len(name) && unescape(name[i:i+3]) != name[i:i+3] {
			b.WriteString("25")
		}
	}
	return b.String()
}

var unescaper = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%")

func unescape(name string) string {
	if !strings.Contains(name, "%") {
		return name
	}
	return unescaper.Replace(name)
}
