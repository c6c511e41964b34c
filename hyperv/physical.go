package hyperv

import (
	"context"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// subPhysical is a disk of the host that a machine has passed through.
const subPhysical = "Microsoft:Hyper-V:Physical Disk Drive"

// physical lists the machine's passed-through disks. They have no image: no
// checkpoint holds them, and a copy would have the very same disk.
func (r *record) physical() []*cim.Instance {
	var out []*cim.Instance
	for _, x := range r.rows[rowResources] {
		if x.Str("ResourceSubType") == subPhysical {
			out = append(out, x)
		}
	}
	return out
}

// imaged denies capabilities that need an image of each disk.
func (m *machine) imaged(ctx context.Context, s hypervisor.Support) (hypervisor.Support, error) {
	inv, err := readInventory(ctx, m.h, m.s, []int{rowResources}, only(m.id))
	if err != nil {
		return s, err
	}
	if p := inv.record(string(m.id)).physical(); len(p) > 0 {
		return no(hypervisor.ReasonVMPassthrough, "disk "+p[0].Str("InstanceID")+" is a disk of the host, passed through: detach it first"), nil
	}
	return s, nil
}
