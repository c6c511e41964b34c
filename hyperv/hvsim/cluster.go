package hvsim

import "github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"

// cluster is a failover cluster over all hosts.
type cluster struct {
	sim *Sim
	cfg ClusterConfig
	vms map[string]bool // GUIDs of clustered machines
}

func newCluster(s *Sim, c ClusterConfig) *cluster {
	return &cluster{sim: s, cfg: c, vms: map[string]bool{}}
}

// forget takes a machine out of the cluster.
func (c *cluster) forget(m *machine) {
	if c != nil {
		delete(c.vms, m.id)
	}
}

func (h *Host) clusterLinks(*cimx.Instance) []link { return nil }
