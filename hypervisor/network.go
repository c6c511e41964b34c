package hypervisor

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// NetworkInfo is a network that adapters can connect to: a libvirt network or
// bridge, a vSphere network or port group, a XAPI network, a Hyper-V switch.
type NetworkInfo struct {
	ID    NetworkID `json:"id"`
	Name  string    `json:"name"`
	Type  string    `json:"type,omitempty"` // the platform's type
	Hosts []HostID  `json:"hosts,omitempty"`
	VLAN  int       `json:"vlan,omitempty"` // 0 if none
	SRIOV Fact      `json:"sriov,omitempty"`
}

// Networks lists the networks.
func (c *Client) Networks(ctx context.Context) iter.Seq2[NetworkInfo, error] {
	return list(ctx, c, op.NetworkList, capability.NetworkList, func(ctx context.Context, d NetworkLister) ([]NetworkInfo, error) { return d.Networks(ctx) })
}
