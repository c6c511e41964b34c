package hyperv

import (
	"context"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// moveInCluster moves a machine that a failover cluster manages through the
// cluster, which would otherwise move it back or lose track of it.
func (d *driver) moveInCluster(ctx context.Context, v *move) (hypervisor.DriverTask, error) {
	began := time.Now()
	return d.start(ctx, v.m.h, "", func(o *op) (hypervisor.Ref, error) {
		o.phase("moving through the cluster", -1)
		ts, err := v.to.session(o.ctx)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		// A lost move is seen at its end alone: the cluster moves the machine
		// there once, however often it is told.
		q := &request{o.s, func(ctx context.Context) (*cim.Result, error) {
			if there, err := v.target.read(ctx, v.to, ts, v.m.id); err != nil || there == nil || there.planned {
				return nil, err
			}
			return &cim.Result{}, nil
		}, v.group, "MoveToNewNode", []cim.Arg{{Name: "NodeName", Value: v.to.name}, {Name: "TimeOut", Value: uint32(600)}}}
		if _, err := q.send(o.ctx); err != nil {
			return hypervisor.Ref{}, err
		}
		for step := 0; ; step++ {
			there, err := v.target.read(o.ctx, v.to, ts, v.m.id)
			if err != nil {
				return hypervisor.Ref{}, err
			}
			if there != nil && !there.planned {
				break
			}
			if err := d.poll.Next(o.ctx, step); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		o.state.Migration = v.done(began)
		return v.m.id.Ref(), nil
	})
}

// clusterGroup finds the resource group of a machine, none if no cluster
// manages it: the resource of type
// "Virtual Machine" whose private property VmID is the machine's GUID.
func clusterGroup(ctx context.Context, m *machine) (cim.Ref, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.MSCluster, cim.Select("MSCluster_Resource", nil, "Type = 'Virtual Machine'")))
	if refused(err) {
		return cim.Ref{}, nil // no cluster
	}
	if err != nil {
		return cim.Ref{}, err
	}
	group := func(r *cim.Instance) cim.Ref {
		return cim.Ref{Namespace: cim.MSCluster, Class: "MSCluster_ResourceGroup", Keys: []cim.Key{{Name: "Name", Value: r.Str("OwnerGroup")}}}
	}
	for _, r := range rows {
		for _, p := range r.Insts("PrivateProperties") {
			if strings.EqualFold(p.Str("VmID"), string(m.id)) {
				return group(r), nil
			}
		}
	}
	// Where private properties are not shown, the resource has the name that
	// the cluster's tools give it. Names are not unique: the role of another
	// machine must not be taken for this one's.
	for _, r := range rows {
		if !r.Get("PrivateProperties").IsNull() || r.Str("Name") != "Virtual Machine "+m.name() || !strings.EqualFold(r.Str("OwnerNode"), m.h.name) {
			continue
		}
		return group(r), m.onlyOfItsName(ctx)
	}
	return cim.Ref{}, nil
}

// onlyOfItsName refuses a machine that the cluster, which goes by names, could
// take for another of the same host.
func (m *machine) onlyOfItsName(ctx context.Context) error {
	same, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualSystemSettingData", []string{"InstanceID"},
		"VirtualSystemType = "+cim.Quote(typeRealized), "ElementName = "+cim.Quote(m.name()))))
	if err == nil && len(same) > 1 {
		err = hypervisor.Errorf(hypervisor.KindAmbiguous, m.id.Ref(), "the cluster knows machines by name, and host %s has %d of the name %q: rename one", m.h.id, len(same), m.name())
	}
	return err
}
