package hvsim

import (
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// cluster is a failover cluster over all hosts: the classes of root\MSCluster that tell about virtual machines
// [G: class lists; O: clusterutils].
type cluster struct {
	sim    *Sim
	cfg    ClusterConfig
	groups map[string]string // machine GUID to group ID
	order  []string
	exempt *machine // the cluster itself is moving it
}

// Group types and states [O: os_win/constants and clusterutils].
const (
	groupTypeVM    = 111
	groupOnline    = 0
	groupOffline   = 1
	nodeUp         = 0
	resTypeVM      = "Virtual Machine"
	resTypeVMConf  = "Virtual Machine Configuration"
	resourceOnline = 2
	resourceOff    = 3
)

func newCluster(s *Sim, c ClusterConfig) *cluster {
	if c.Name == "" {
		c.Name = "CLUSTER"
	}
	k := &cluster{sim: s, cfg: c, groups: map[string]string{}}
	for _, h := range s.hosts {
		h.clus = newSpace(nsCluster, h.cfg.Name)
		v := h.clus
		v.add(v.new("MSCluster_Cluster").Set("Name", c.Name).Set("Caption", c.Name).Set("CreationClassName", "MSCluster_Cluster").Set("SharedVolumesRoot", `C:\ClusterStorage`))
		for n, o := range s.hosts {
			v.add(v.new("MSCluster_Node").Set("Name", o.cfg.Name).Set("Caption", o.cfg.Name).Set("CreationClassName", "MSCluster_Node").Set("State", nodeUp).Set("Id", fmt.Sprint(n+1)).
				Set("BuildNumber", o.cfg.Build).Set("NodeWeight", 1))
		}
		for _, name := range c.Volumes {
			v.add(v.new("MSCluster_ClusterSharedVolume").Set("Name", `C:\ClusterStorage\`+name).Set("VolumeName", name))
			// Sizes are in MB [G: MSCluster_ClusterDiskPartition]; that Path is the mount point is believed.
			v.add(v.new("MSCluster_DiskPartition").Set("Path", `C:\ClusterStorage\`+name).Set("MountPoints", []any{`C:\ClusterStorage\` + name}).
				Set("FileSystem", "CSVFS").Set("TotalSize", 1<<20).Set("FreeSpace", 1<<19))
		}
		v.virtual[v.ns.Class("MSCluster_ResourceGroup")] = virtual{all: func() (out []*cimx.Instance) { return k.show(h, "MSCluster_ResourceGroup") }}
		v.virtual[v.ns.Class("MSCluster_Resource")] = virtual{all: func() (out []*cimx.Instance) { return k.show(h, "MSCluster_Resource") }}
	}
	return k
}

func (c *cluster) has(m *machine) bool { return c != nil && c.exempt != m && c.groups[m.id] != "" }

func (c *cluster) add(m *machine) {
	if c == nil || c.groups[m.id] != "" {
		return
	}
	c.groups[m.id] = strings.ToLower(c.sim.newID())
	c.order = append(c.order, m.id)
}

// forget takes a machine out of the cluster.
func (c *cluster) forget(m *machine) {
	if c != nil {
		delete(c.groups, m.id)
	}
}

// Cluster makes a machine a clustered role, as Add-ClusterVirtualMachineRole does.
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

// show makes the groups or resources of the clustered machines.
func (c *cluster) show(h *Host, class string) []*cimx.Instance {
	var out []*cimx.Instance
	for _, id := range c.order {
		m := c.sim.machineByID(id)
		g := c.groups[id]
		if m == nil || g == "" {
			continue
		}
		on := m.state() != stOff && m.state() != stSaved
		if class == "MSCluster_ResourceGroup" {
			state := groupOffline
			if on {
				state = groupOnline
			}
			i := h.clus.new(class).Set("Name", m.name()).Set("Caption", m.name()).Set("Id", g).Set("GroupType", groupTypeVM).Set("OwnerNode", m.h.cfg.Name).Set("State", state).Set("IsCore", false)
			out = append(out, i)
			continue
		}
		for _, r := range []struct{ name, kind string }{{"Virtual Machine " + m.name(), resTypeVM}, {"Virtual Machine Configuration " + m.name(), resTypeVMConf}} {
			state := resourceOnline
			if !on && r.kind == resTypeVM {
				state = resourceOff
			}
			i := h.clus.new(class).Set("Name", r.name).Set("Caption", r.name).Set("Type", r.kind).Set("OwnerGroup", m.name()).Set("OwnerNode", m.h.cfg.Name).Set("State", state)
			setIf(i, "Id", g+":"+r.kind)
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
	handle("MSCluster_ResourceGroup", map[string]handler{"MoveToNewNode": move, "MoveToNewNodeParams": move})
}

// clusterMove moves a clustered machine to another node by live migration; its files are on shared volumes
// [G: MSCluster_ResourceGroup.MoveToNewNode(Params); O: clusterutils.live_migrate_vm]. The move is done when the
// call returns; a real cluster goes on in the background.
func clusterMove(c *call) uint32 {
	cl := c.h.sim.cluster
	var m *machine
	for id, g := range cl.groups {
		if g == c.obj.Str("Id") {
			m = c.h.sim.machineByID(id)
		}
	}
	dst := c.h.sim.hostByName(c.str("NodeName"))
	if m == nil || dst == nil {
		return errClusterNodeNotFound
	}
	if dst == m.h {
		return 0
	}
	if m.busy != nil {
		return errInvalidState
	}
	g := &migration{m: m, src: m.h, dst: dst, kind: migVM, set: m.h.virt.new("Msvm_VirtualSystemMigrationSettingData"), res: map[string]*cimx.Instance{}}
	cl.exempt = m
	l := g.blockers()
	cl.exempt = nil
	if len(l) > 0 {
		return errInvalidState
	}
	if f := g.move(); f != nil {
		return errInvalidState
	}
	return 0
}

// Win32 codes that the cluster returns [D: System Error Codes].
const (
	errInvalidState        = 5023
	errClusterNodeNotFound = 5042
)
