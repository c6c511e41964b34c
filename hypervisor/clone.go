package hypervisor

import "context"

// CloneMode is how a copy relates to its source. It is never downgraded.
type CloneMode uint8

const (
	FullClone CloneMode = iota // independent
	Linked                     // shares a frozen base with its source
	Instant                    // forked from a running machine, RAM and all
)

// String returns "full", "linked" or "instant".
func (m CloneMode) String() string {
	return [...]string{"full", "linked", "instant"}[min(m, Instant)]
}

// CloneRequest is what a driver gets for VM.Clone and Template.Deploy.
type CloneRequest struct {
	Name        string
	Description string
	Mode        CloneMode
	From        SnapshotID // empty: the machine as it is now
	Placement   Placement
	Start       bool
	Labels      map[string]string
	CPUs        int   // 0: as the source
	MemoryBytes int64 // 0: as the source
	Customize   *Customization
	Token       string
}

// Customization sets facts inside the guest at its first start.
type Customization struct {
	HostName string
	// Addresses is one CIDR address for each adapter, in order; empty for DHCP.
	Addresses []string
	Gateway   string
	DNS       []string
}

// CloneOptions for VM.Clone and Template.Deploy; nil means a full clone of
// the machine as it is now, placed by the platform, off.
type CloneOptions struct {
	Mode        CloneMode
	From        SnapshotID // of the source; not for templates
	Description string
	Placement   Placement
	Start       bool
	Labels      map[string]string // in place of the source's
	CPUs        int               // 0: as the source
	MemoryBytes int64             // 0: as the source
	Customize   *Customization
	// Token makes the call safe to repeat: the clone carries it, and the same
	// token again finds that clone instead of making a second.
	Token string
}

func cloneRequest(name string, o *CloneOptions) CloneRequest {
	r := CloneRequest{Name: name}
	if o != nil {
		r = CloneRequest{Name: name, Description: o.Description, Mode: o.Mode, From: o.From, Placement: o.Placement,
			Start: o.Start, Labels: o.Labels, CPUs: o.CPUs, MemoryBytes: o.MemoryBytes, Customize: o.Customize, Token: o.Token}
	}
	return r
}

func cloneCapability(r CloneRequest) Capability {
	switch {
	case r.Mode == Linked:
		return CloneLinked
	case r.Mode == Instant:
		return CloneInstant
	case r.From != "":
		return CloneFromSnapshot
	}
	return CloneFull
}

// Clone copies the machine. The clone has a new ID and new MAC addresses. A
// clone of a running machine has its disks as after a power cut; only Instant
// takes the RAM along. When it fails, what was made is removed again or named
// in Leftover.
func (m *VM) Clone(ctx context.Context, name string, o *CloneOptions) *Task[*VM] {
	r := cloneRequest(name, o)
	return start(ctx, m.c, "vm.clone", m.ref(), cloneCapability(r), checkClone("vm.clone", m.ref(), r), func(ctx context.Context, d Cloner) (DriverTask, error) {
		return d.Clone(ctx, m.id, r)
	}, m.c.vmResult)
}
