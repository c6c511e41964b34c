package hyperv

import (
	"context"
	"encoding/binary"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// moveInCluster moves a machine that a failover cluster manages through the
// cluster, which would otherwise move it back or lose track of it.
func (d *driver) moveInCluster(ctx context.Context, v *move) (hypervisor.DriverTask, error) {
	began := time.Now()
	return v.m.start(ctx, "migrate", "", func(o *op) (hypervisor.Ref, error) {
		o.Phase("moving through the cluster", -1)
		ts, err := v.to.session(o.ctx)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		// A lost move is seen only by its end: the cluster moves the machine
		// there once, however often it is asked.
		method, args := "MoveToNewNode", []cim.Arg{{Name: "NodeName", Value: v.to.name}, {Name: "TimeOut", Value: uint32(600)}}
		if v.m.state == hypervisor.StateRunning || v.m.state == hypervisor.StatePaused {
			// Without a type the cluster saves a machine of low priority.
			method, args = "MoveToNewNodeParams", []cim.Arg{{Name: "NodeName", Value: v.to.name}, {Name: "Parameters", Value: moveTypes(moveLive)}, {Name: "Flags", Value: moveFlags}}
		}
		q := v.m.request(trace{look: func(ctx context.Context) (*cim.Result, error) {
			if there, err := v.target.read(ctx, v.to, ts, v.m.id); err != nil || there == nil || there.planned {
				return nil, err
			}
			return &cim.Result{}, nil
		}}, v.group, method, args...)
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
		o.Migration = v.done(began)
		return v.m.id.Ref(), nil
	})
}

// Values of a move through the cluster (clusapi.h, and os-win's
// live_migrate_vm): the type of a live one; back to its node after a failure,
// in line with other moves, and started as one of high priority.
const (
	moveLive  = uint32(4)
	moveFlags = uint32(2 | 4 | 8)
)

// moveTypes is the property list of the cluster API (CLUSPROP_LIST) that
// names the type of a move for both resources of a role. Names and values
// have a syntax, a length in bytes and padding to four.
func moveTypes(kind uint32) []uint8 {
	const syntaxName, syntaxDWORD = 0x00040003, 0x00010002
	le := binary.LittleEndian
	out := le.AppendUint32(nil, 2)
	for _, name := range []string{"Virtual Machine", "Virtual Machine Configuration"} {
		text := utf16.Encode([]rune(name + "\x00"))
		out = le.AppendUint32(le.AppendUint32(out, syntaxName), uint32(2*len(text)))
		for _, u := range text {
			out = le.AppendUint16(out, u)
		}
		out = append(out, make([]uint8, 2*(len(text)%2))...)
		out = le.AppendUint32(le.AppendUint32(out, syntaxDWORD), 4)
		out = le.AppendUint32(le.AppendUint32(out, kind), 0) // with the end mark
	}
	return out
}

// clusterGroup finds the resource group of a machine, or none if no cluster
// manages it. The group has the resource of type "Virtual Machine" whose
// private property VmID is the machine's GUID.
func clusterGroup(ctx context.Context, m *machine) (cim.Ref, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.MSCluster, cim.Select("MSCluster_Resource", nil, "Type = 'Virtual Machine'")))
	if unclustered(err) {
		return cim.Ref{}, nil
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
	// Where private properties are not visible, the resource has the name
	// that the cluster's tools give it. Names are not unique: the role of
	// another machine must not be mistaken for this one's.
	for _, r := range rows {
		if !r.Get("PrivateProperties").IsNull() || r.Str("Name") != "Virtual Machine "+m.name() || !strings.EqualFold(r.Str("OwnerNode"), m.h.name) {
			continue
		}
		return group(r), m.onlyOfItsName(ctx)
	}
	return cim.Ref{}, nil
}

// onlyOfItsName refuses a machine that the cluster, which identifies machines
// by name, could mistake for another of the same host.
func (m *machine) onlyOfItsName(ctx context.Context) error {
	same, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualSystemSettingData", []string{"InstanceID"},
		"VirtualSystemType = "+cim.Quote(typeRealized), "ElementName = "+cim.Quote(m.name()))))
	if err == nil && len(same) > 1 {
		err = hypervisor.Errorf(hypervisor.ErrAmbiguous, m.id.Ref(), "the cluster knows machines by name, and host %s has %d of the name %q: rename one", m.h.id, len(same), m.name())
	}
	return err
}
