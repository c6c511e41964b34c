package vsphere

import (
	"context"
	"encoding/json"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// extraConfig holds the labels and the token of a machine that is made. Both
// are always written: a clone must not keep those of its source. An empty
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

// SetLabels writes all labels as one value.
func (d *driver) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	return d.reconfigure(ctx, id, types.VirtualMachineConfigSpec{ExtraConfig: extraConfig(labels, "", "")[:1]})
}

// findToken returns the machine that carries a token, or "".
func (d *driver) findToken(ctx context.Context, token string) (hypervisor.VMID, error) {
	if token == "" {
		return "", nil
	}
	refs, err := d.matching(ctx, tokenPath, func(v any) bool { return optionValue(v) == token })
	if err != nil || len(refs) == 0 {
		return "", err
	}
	return hypervisor.VMID(refs[0].Value), nil
}
