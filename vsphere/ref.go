package vsphere

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode"

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

// networkRef guesses the type from the form of the value: vCenter names
// distributed port groups "dvportgroup-…" and opaque networks "network-o…";
// govmomi's simulator names those "opaquenetwork-…".
func networkRef(id hypervisor.NetworkID) ref {
	v := string(id)
	switch {
	case strings.HasPrefix(v, "dvportgroup-"):
		return ref{Type: "DistributedVirtualPortgroup", Value: v}
	case strings.HasPrefix(v, "network-o"), strings.HasPrefix(v, "opaquenetwork-"):
		return ref{Type: "OpaqueNetwork", Value: v}
	}
	return ref{Type: "Network", Value: v}
}

// poolRef guesses in the same way: "domain-c…" is a cluster, "domain-s…" a
// host outside of clusters, "resgroup-v…" a vApp.
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
		"VirtualMachine": hypervisor.ObjectVM, "HostSystem": hypervisor.ObjectHost, "Datastore": hypervisor.ObjectDatastore,
		"VirtualMachineSnapshot": hypervisor.ObjectSnapshot, "Task": hypervisor.ObjectTask,
		"Network": hypervisor.ObjectNetwork, "DistributedVirtualPortgroup": hypervisor.ObjectNetwork, "OpaqueNetwork": hypervisor.ObjectNetwork,
		"ResourcePool": hypervisor.ObjectPool, "ClusterComputeResource": hypervisor.ObjectPool, "ComputeResource": hypervisor.ObjectPool,
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

// storeNameOf returns the datastore's name in a path.
func storeNameOf(file string) string {
	var p object.DatastorePath
	p.FromString(file)
	return p.Datastore
}

// splitVolume splits an ID into its parts. A path has one spelling, stays in
// its datastore, shows all its characters, and has the extension of a disk or
// a CD image. Any other path is not an ID.
func splitVolume(id hypervisor.VolumeID) (store ref, file string, ok bool) {
	ds, file, _ := strings.Cut(string(id), "/")
	hidden := func(r rune) bool { return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }
	ext := strings.ToLower(path.Ext(file))
	ok = ds != "" && fs.ValidPath(file) && !strings.Contains(file, `\`) && strings.TrimSpace(file) == file && !strings.ContainsFunc(string(id), hidden) &&
		(ext == ".vmdk" || ext == ".iso") && !strings.HasSuffix(file, "-flat.vmdk") // the content of a disk, whose file is another one
	return storeRef(hypervisor.DatastoreID(ds)), file, ok
}

// Names. vSphere escapes /, \ and % in names of inventory objects as %2f, %5c
// and %25, and leaves a percent sign that begins such a sequence as it is
// (API reference, ManagedEntity.name).

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
