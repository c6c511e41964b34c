package hvsim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
)

// cluster is a failover cluster over all hosts: the classes of root\MSCluster that describe virtual machines [G: class lists; O:
// clusterutils].
type cluster struct {
	sim    *Sim
	cfg    ClusterConfig
	roles  []*role
	exempt *machine // the cluster itself is moving it
}

// role is a clustered machine: a group with two resources.
type role struct {
	id, machine string
	name        string // name of the machine when it was last seen
	priority    uint32
	saved       int // number of moves that saved the machine while it ran
}

// Group types and states [O: os_win/constants and clusterutils].
const (
	groupTypeVM    = 111
	groupOnline    = 0
	groupOffline   = 1
	groupFailed    = 2
	nodeUp         = 0
	resTypeVM      = "Virtual Machine"
	resTypeVMConf  = "Virtual Machine Configuration"
	resourceOnline = 2
	resourceOff    = 3
	resourceFailed = 4
)

// Priorities of groups [D: "Priority" of "Group Common Properties"]: 0 does not start by itself, 1000 low, 2000 medium, 3000 high.
const (
	priorityMedium = 2000
	priorityHigh   = 3000
)

func newCluster(s *Sim, c ClusterConfig) *cluster {
	if c.Name == "" {
		c.Name = "CLUSTER"
	}
	if c.Root == "" {
		c.Root = `C:\ClusterStorage`
	}
	s.cfg.Cluster = &c
	k := &cluster{sim: s, cfg: c}
	for _, h := range s.hosts {
		h.clus = newSpace(nsCluster, h.cfg.Name, h.cfg.Build)
		v := h.clus
		v.add(v.new("MSCluster_Cluster").Set("Name", c.Name).Set("Caption", c.Name).Set("CreationClassName", "MSCluster_Cluster").Set("SharedVolumesRoot", c.Root))
		for n, o := range s.hosts {
			v.add(v.new("MSCluster_Node").Set("Name", o.cfg.Name).Set("Caption", o.cfg.Name).Set("CreationClassName", "MSCluster_Node").Set("State", nodeUp).Set("Id", fmt.Sprint(n+1)).
				Set("BuildNumber", o.cfg.Build).Set("NodeWeight", 1))
		}
		for _, name := range c.Volumes {
			v.add(v.new("MSCluster_ClusterSharedVolume").Set("Name", join(c.Root, name)).Set("VolumeName", name))
			// Sizes are in MB [G: MSCluster_ClusterDiskPartition]; that Path is the mount point is believed.
			v.add(v.new("MSCluster_DiskPartition").Set("Path", join(c.Root, name)).Set("MountPoints", []any{join(c.Root, name)}).
				Set("FileSystem", "CSVFS").Set("TotalSize", 1<<20).Set("FreeSpace", 1<<19))
		}
		v.virtual[v.ns.Class("MSCluster_ResourceGroup")] = virtual{all: func() (out []*cimx.Instance) { return k.show(h, "MSCluster_ResourceGroup") }}
		v.virtual[v.ns.Class("MSCluster_Resource")] = virtual{all: func() (out []*cimx.Instance) { return k.show(h, "MSCluster_Resource") }}
	}
	return k
}

func (c *cluster) has(m *machine) bool { return c != nil && c.exempt != m && c.role(m.id) != nil }

// role finds the role of a machine.
func (c *cluster) role(machine string) *role {
	for _, r := range c.roles {
		if r.machine == machine {
			return r
		}
	}
	return nil
}

func (c *cluster) add(m *machine) {
	if c.role(m.id) == nil {
		c.roles = append(c.roles, &role{id: strings.ToLower(c.sim.newID()), machine: m.id, name: m.name(), priority: priorityMedium})
	}
}

// Cluster makes a machine a clustered role, like Add-ClusterVirtualMachineRole.
func (s *Sim) Cluster(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machineByID(id)
	if m == nil || s.cluster == nil {
		return fmt.Errorf("hvsim: no machine %s, or no cluster", id)
	}
	s.cluster.add(m)
	return nil
}

// Roles returns the names of the cluster's roles, in the order in which they were made.
func (s *Sim) Roles() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.cluster != nil {
		for _, r := range s.cluster.roles {
			out = append(out, r.name)
		}
	}
	return out
}

// show makes the groups or resources of the roles. One whose machine was deleted stays and fails (believed).
func (c *cluster) show(h *Host, class string) []*cimx.Instance {
	var out []*cimx.Instance
	for _, r := range c.roles {
		m := c.sim.machineByID(r.machine)
		owner, group, vm, conf := h.cfg.Name, groupFailed, resourceFailed, resourceFailed
		if m != nil {
			r.name, owner = m.name(), m.h.cfg.Name
			group, vm, conf = groupOffline, resourceOff, resourceOnline
			if m.state() != stOff && m.state() != stSaved {
				group, vm = groupOnline, resourceOnline
			}
		}
		if class == "MSCluster_ResourceGroup" {
			out = append(out, h.clus.new(class).Set("Name", r.name).Set("Caption", r.name).Set("Id", r.id).Set("GroupType", groupTypeVM).Set("OwnerNode", owner).Set("State", group).
				Set("IsCore", false).Set("Priority", r.priority))
			continue
		}
		for _, x := range []struct {
			name, kind string
			state      int
		}{{"Virtual Machine " + r.name, resTypeVM, vm}, {"Virtual Machine Configuration " + r.name, resTypeVMConf, conf}} {
			i := h.clus.new(class).Set("Name", x.name).Set("Caption", x.name).Set("Type", x.kind).Set("OwnerGroup", r.name).Set("OwnerNode", owner).Set("State", x.state)
			setIf(i, "Id", r.id+":"+x.kind)
			out = append(out, i)
		}
	}
	return out
}

func (h *Host) clusterLinks(i *cimx.Instance) []link {
	c := h.sim.cluster
	if c == nil || h.clus == nil {
		return nil
	}
	var out []link
	switch i.Class.Name {
	case "MSCluster_ResourceGroup":
		for _, r := range c.show(h, "MSCluster_Resource") {
			if r.Str("OwnerGroup") == i.Str("Name") {
				out = append(out, tie([3]string{"MSCluster_ResourceGroupToResource", "GroupComponent", "PartComponent"}, i, r))
			}
		}
	case "MSCluster_Node":
		for _, g := range c.show(h, "MSCluster_ResourceGroup") {
			if strings.EqualFold(g.Str("OwnerNode"), i.Str("Name")) {
				out = append(out, tie([3]string{"MSCluster_NodeToActiveGroup", "GroupComponent", "PartComponent"}, i, g))
			}
		}
	}
	return out
}

func init() {
	move := func(c *call) uint32 { return clusterMove(c) }
	handle("MSCluster_ResourceGroup", map[string]handler{"MoveToNewNode": move, "MoveToNewNodeParams": move, "DestroyGroup": destroyGroup})
	handle("MSCluster_Cluster", map[string]handler{"AddVirtualMachine": addVirtualMachine})
}

// group is the role that a call or a Put is for.
func (c *cluster) group(i *cimx.Instance) *role {
	for _, r := range c.roles {
		if r.id == i.Str("Id") {
			return r
		}
	}
	return nil
}

// addVirtualMachine makes a role of a machine, given by its name [O: clusterutils.add_vm_to_cluster]. The machine must be on the
// node that receives the call (believed).
func addVirtualMachine(c *call) uint32 {
	var m *machine
	for _, x := range c.h.vms {
		if x.name() == c.str("VirtualMachine") && !x.planned {
			if m != nil {
				return errInvalidParameter // believed
			}
			m = x
		}
	}
	switch cl := c.h.sim.cluster; {
	case m == nil:
		return errFileNotFound
	case cl.role(m.id) != nil:
		return errObjectExists
	default:
		cl.add(m)
	}
	return 0
}

// destroyGroup removes a role from the cluster and leaves its machine unchanged [O: clusterutils.delete].
func destroyGroup(c *call) uint32 {
	cl := c.h.sim.cluster
	r := cl.group(c.obj)
	cl.roles = slices.DeleteFunc(cl.roles, func(x *role) bool { return x == r })
	return 0
}

// setGroup is Put of a group [O: clusterutils.add_vm_to_cluster]. Of its properties only the priority is simulated.
func (c *cluster) setGroup(i *cimx.Instance, props map[string]any, next *cimx.Instance) error {
	for n := range props {
		if !strings.EqualFold(n, "Priority") {
			return wbem.Errorf(wbem.NotSupported, "%s is not simulated", n)
		}
	}
	p := next.Uint("Priority")
	if p > priorityHigh {
		return wbem.Errorf(wbem.InvalidParameter, "Priority")
	}
	c.group(i).priority = uint32(p)
	return nil
}

// Win32 codes that the cluster returns [D: System Error Codes].
const (
	errFileNotFound        = 2
	errInvalidParameter    = 87
	errObjectExists        = 5010
	errInvalidState        = 5023
	errClusterNodeNotFound = 5042
)
