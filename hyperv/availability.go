package hyperv

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// clusterPriorities are the values of MSCluster_ResourceGroup.Priority
// (failover cluster reference, "Group Common Properties"). A group of priority
// 0 does not start by itself.
var clusterPriorities = map[hypervisor.RestartPriority]uint32{
	hypervisor.RestartNever: 0, hypervisor.RestartLow: 1000, hypervisor.RestartMedium: 2000, hypervisor.RestartHigh: 3000,
}

// HA implements hypervisor.Protector. It lists the failover clusters that the
// hosts belong to. A cluster always protects its roles, reserves no room for
// them, and has no default for machines that are not roles.
func (d *driver) HA(ctx context.Context) ([]hypervisor.HAInfo, error) {
	var mu sync.Mutex
	var out []hypervisor.HAInfo
	err := d.each(ctx, d.hosts, func(_ context.Context, _ int, h *host, _ cim.Session) error {
		mu.Lock()
		defer mu.Unlock()
		i := hypervisor.HAInfo{Pool: hypervisor.PoolID(h.cluster), Name: h.cluster, Enabled: true}
		if h.cluster != "" && !slices.Contains(out, i) {
			out = append(out, i)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b hypervisor.HAInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Availability implements hypervisor.Protector. A machine that is not a role
// of a cluster stays down when its host fails.
func (d *driver) Availability(ctx context.Context, id hypervisor.VMID) (hypervisor.Availability, error) {
	m, err := d.clustered(ctx, id)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	group, err := m.role(ctx)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	if group.IsZero() {
		return hypervisor.Availability{Priority: hypervisor.RestartNever}, nil
	}
	g, err := cim.Read(ctx, m.s, group)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	a := hypervisor.Availability{Priority: hypervisor.RestartHigh}
	switch n := g.Uint("Priority"); {
	case n == 0:
		a.Priority = hypervisor.RestartNever
	case n < 2000:
		a.Priority = hypervisor.RestartLow
	case n < 3000:
		a.Priority = hypervisor.RestartMedium
	}
	a.Protected = a.Priority != hypervisor.RestartNever && (m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused)
	return a, nil
}

// SetRestartPriority implements hypervisor.Protector. A machine that is not a
// role of its host's cluster becomes one.
func (d *driver) SetRestartPriority(ctx context.Context, id hypervisor.VMID, p hypervisor.RestartPriority) (hypervisor.DriverTask, error) {
	m, err := d.clustered(ctx, id)
	if err != nil {
		return nil, err
	}
	value, known := clusterPriorities[p]
	if !known {
		return nil, hypervisor.Unsupported(id.Ref(), capability.HighAvailability, hypervisor.ReasonPlatform, "a failover cluster knows no "+string(p)+" priority: use low, medium, high or never")
	}
	group, err := m.role(ctx)
	if err != nil {
		return nil, err
	}
	if group.IsZero() {
		if err := m.startable(); err != nil {
			return nil, err
		}
		if err := m.fitForCluster(ctx); err != nil {
			return nil, err
		}
	}
	return m.start(ctx, "set restart priority", "", func(o *op) (hypervisor.Ref, error) {
		if group.IsZero() {
			if p == hypervisor.RestartNever {
				return hypervisor.Ref{}, nil // a machine that is not a role is never restarted
			}
			if group, err = o.addRole(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		_, err := cim.Again(func() (any, error) { return nil, o.s.Put(o.ctx, group, cim.Typed("Priority", value)) })
		return hypervisor.Ref{}, err
	})
}

// clustered finds a machine on a host that belongs to a cluster.
func (d *driver) clustered(ctx context.Context, id hypervisor.VMID) (*machine, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if e := m.h.editionFor(capability.HighAvailability); e.Level == hypervisor.LevelNo {
		return nil, hypervisor.Unsupported(id.Ref(), capability.HighAvailability, e.Reason, e.Detail)
	}
	return m, nil
}

// fitForCluster refuses a machine that the cluster could not start elsewhere,
// or could not distinguish from another.
func (m *machine) fitForCluster(ctx context.Context) error {
	if err := m.onlyOfItsName(ctx); err != nil {
		return err
	}
	images, err := m.images(ctx, nil)
	if err != nil {
		return err
	}
	for _, p := range images {
		if !m.h.shared(p) {
			return hypervisor.Errorf(hypervisor.ErrIncompatible, m.id.Ref(), "disk %s is on the host's own storage, where no other node reaches it: move it to a cluster shared volume or a share", p)
		}
	}
	return nil
}

// addRole makes the machine a role of the cluster.
func (o *op) addRole(m *machine) (cim.Ref, error) {
	o.Phase("adding to the cluster", -1)
	ref := cim.Ref{Namespace: cim.MSCluster, Class: "MSCluster_Cluster", Keys: []cim.Key{{Name: "Name", Value: m.h.cluster}}}
	o.SetBack("its role in the cluster", func(ctx context.Context) error {
		group, err := m.role(ctx)
		if err != nil || group.IsZero() {
			return err
		}
		return m.removeRole(ctx, group)
	})
	look := m.done(func(ctx context.Context) (bool, error) { group, err := m.role(ctx); return !group.IsZero(), err })
	q := m.request(once(look), ref, "AddVirtualMachine", cim.Arg{Name: "VirtualMachine", Value: m.name()})
	if _, err := q.send(o.ctx); err != nil {
		return cim.Ref{}, err
	}
	group, err := m.role(o.ctx)
	if err == nil && group.IsZero() {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, m.id.Ref(), "the cluster took the machine and shows no role of it")
	}
	return group, err
}

// role finds the machine's role in the cluster. It is zero if there is none.
func (m *machine) role(ctx context.Context) (cim.Ref, error) {
	if m.h.cluster == "" || m.planned {
		return cim.Ref{}, nil
	}
	return clusterGroup(ctx, m)
}

// removeRole removes a role from the cluster and leaves its machine as it is.
func (m *machine) removeRole(ctx context.Context, group cim.Ref) error {
	const roleOnly = uint32(1) // as in OpenStack's os-win
	look := m.done(func(ctx context.Context) (bool, error) { group, err := m.role(ctx); return group.IsZero(), err })
	q := m.request(look, group, "DestroyGroup", cim.Arg{Name: "Options", Value: roleOnly})
	_, err := q.send(ctx)
	return err
}
