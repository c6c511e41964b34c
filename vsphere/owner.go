package vsphere

import (
	"context"
	"slices"
	"sync"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// owner is a machine with the backing chains of its disks.
type owner struct {
	self   ref
	chains [][]link
}

func (o owner) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: o.self.Value}
}

func (o owner) uses(id hypervisor.VolumeID) bool {
	for _, c := range o.chains {
		if slices.ContainsFunc(c, func(l link) bool { return l.id == id }) {
			return true
		}
	}
	return false
}

// ownerBook caches the backing chains of machines, each with the version of
// the configuration that it is from. It takes some 500 bytes for each
// machine.
type ownerBook struct {
	mu   sync.Mutex
	seen map[ref]seenOwner
}

type seenOwner struct {
	version string
	owner   owner
}

// owners returns the backing chains of all machines, including templates. It
// reads the version of the configuration of all, and the devices only of
// those whose version is new. Each change of a disk and each snapshot changes
// the version (API reference, VirtualMachineConfigInfo.changeVersion).
func (d *driver) owners(ctx context.Context) ([]owner, error) {
	list, err := d.viewAll(ctx, "VirtualMachine", []string{"config.changeVersion"})
	if err != nil {
		return nil, err
	}
	out := make([]owner, 0, len(list))
	var unknown []ref
	now := make(map[ref]seenOwner, len(list))
	d.chains.mu.Lock()
	for _, o := range list {
		p := props(o)
		s, ok := d.chains.seen[o.Obj]
		if v := p.str("config.changeVersion"); !ok || v == "" || s.version != v {
			unknown = append(unknown, o.Obj)
			continue
		}
		now[o.Obj] = s
		out = append(out, s.owner)
	}
	d.chains.mu.Unlock()
	for part := range slices.Chunk(unknown, pageSize) {
		list, err := d.some(ctx, part, []string{"config.changeVersion", "config.hardware.device"})
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			p := props(o)
			w := owner{self: o.Obj}
			for _, x := range disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) {
				w.chains = append(w.chains, chain(x.Backing))
			}
			now[o.Obj] = seenOwner{p.str("config.changeVersion"), w}
			out = append(out, w)
		}
	}
	d.chains.mu.Lock()
	d.chains.seen = now
	d.chains.mu.Unlock()
	return out, nil
}
