package hvsim

import (
	"encoding/binary"
	"unicode/utf16"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Types of moves in a property list [O: clusterutils, _LIVE_MIGRATION_TYPE].
const moveLive = 4

// clusterMove moves a clustered machine to another node; its files are on shared volumes [G:
// MSCluster_ResourceGroup.MoveToNewNode(Params); O: clusterutils.live_migrate_vm]. The move is complete when the call returns; a
// real cluster continues in the background.
//
// Without a type the cluster chooses: a machine of low priority is saved, moved and resumed, others move live [D: the failover
// clustering blog on quick migration of low priority machines].
func clusterMove(c *call) uint32 {
	cl := c.h.sim.cluster
	r := cl.group(c.obj)
	var m *machine
	if r != nil {
		m = c.h.sim.machineByID(r.machine)
	}
	dst := c.h.sim.hostByName(c.str("NodeName"))
	if m == nil || dst == nil {
		return errClusterNodeNotFound
	}
	live := r.priority >= priorityMedium
	if list, ok := c.in["Parameters"].([]any); ok {
		kind, ok := moveKind(list)
		if !ok {
			return errInvalidParameter
		}
		live = kind == moveLive
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
	running := m.state() == stRunning
	if f := g.move(); f != nil {
		return errInvalidState
	}
	if running && !live {
		r.saved++
	}
	return 0
}

// moveKind reads a property list of the cluster API: how many properties there are, and for each its name, its value and an end mark; names
// and values have a syntax, a length in bytes and padding to four [O: _clusapi_utils.get_property_list; D: CLUSPROP_LIST].
func moveKind(list []any) (kind uint32, ok bool) {
	b := make([]byte, len(list))
	for i, v := range list {
		b[i], _ = v.(byte)
	}
	next := func() (n uint32) {
		if len(b) >= 4 {
			n, b, ok = binary.LittleEndian.Uint32(b), b[4:], true
		} else {
			ok = false
		}
		return n
	}
	value := func(syntax uint32) []byte {
		if next() != syntax {
			return nil
		}
		n := int(next())
		if n <= 0 || (n+3)/4*4 > len(b) {
			return nil
		}
		v := b[:n]
		b = b[(n+3)/4*4:]
		return v
	}
	count := next()
	for range min(count, 8) {
		name, v := value(0x00040003), value(0x00010002)
		if len(name)%2 != 0 || len(v) != 4 || next() != 0 || !ok {
			return 0, false
		}
		var u []uint16
		for i := 0; i < len(name); i += 2 {
			u = append(u, binary.LittleEndian.Uint16(name[i:]))
		}
		if string(utf16.Decode(u)) == resTypeVM+"\x00" {
			kind = binary.LittleEndian.Uint32(v)
		}
	}
	return kind, ok && len(b) == 0
}
