package vsphere

import (
	"context"
	"encoding/json"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// extraConfig holds the labels and the token of a new machine. Both are
// always written, because a clone must not keep those of its source. An empty
// value removes the key.
func extraConfig(labels map[string]string, token, call string) []types.BaseOptionValue {
	return []types.BaseOptionValue{
		&types.OptionValue{Key: labelsKey, Value: encodeLabels(labels)},
		&types.OptionValue{Key: tokenKey, Value: token},
		&types.OptionValue{Key: callKey, Value: call},
	}
}

func encodeLabels(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	b, err := json.Marshal(labels)
	if err != nil { // strings always marshal
		return ""
	}
	return string(b)
}

func decodeLabels(s string) map[string]string {
	if s == "" {
		return nil
	}
	var m map[string]string
	if json.Unmarshal([]byte(s), &m) != nil { // somebody else's value
		return nil
	}
	return m
}

const templateLabels = "vSphere changes nothing of a template but its name and notes: make a machine of it, label that, and mark it a template again"

// SetLabels writes all labels as one value.
func (d *driver) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	err := d.reconfigure(ctx, id, types.VirtualMachineConfigSpec{ExtraConfig: extraConfig(labels, "", "")[:1]})
	if _, refused := faultOf(err).(*types.NotSupported); refused {
		return hypervisor.Unsupported(id.Ref(), capability.Labels, hypervisor.ReasonIsTemplate, templateLabels)
	}
	return err
}
