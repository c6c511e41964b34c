package vsphere

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// A token is in a machine's extraConfig, which every copy of the machine
// inherits. A copy does not inherit the UUIDs, and the UUID of a machine made
// with a token is derived from the token. The server finds the machine by its
// UUID (SearchIndex), which proves that it is not a copy.

// tokenUUID returns the UUID that is derived from a token.
func tokenUUID(token string) string {
	b := sha256.Sum256([]byte("anyvisor.token " + token))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // version 8 of RFC 9562, whose content is free
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// bound returns a machine's UUID for its specification, or none without a
// token.
func bound(token string) string {
	if token == "" {
		return ""
	}
	return tokenUUID(token)
}

// ownToken returns the token in a machine's configuration, if it is not a
// copy's. An instant clone has the UUID as its BIOS UUID.
func ownToken(p propMap) string {
	token := optionValue(p[tokenPath])
	if token == "" {
		return ""
	}
	want := tokenUUID(token)
	if strings.EqualFold(p.str("config.instanceUuid"), want) || strings.EqualFold(p.str("config.uuid"), want) {
		return token
	}
	return ""
}

// withUUIDs asks the server for the machines that a token may have made.
func (d *driver) withUUIDs(ctx context.Context, token string) ([]ref, error) {
	req := types.FindAllByUuid{This: *d.vc.ServiceContent.SearchIndex, Uuid: tokenUUID(token), VmSearch: true}
	if d.root.Type == "Datacenter" {
		req.Datacenter = &d.root
	}
	var out []ref
	for _, instance := range []bool{true, false} {
		req.InstanceUuid = &instance
		res, err := methods.FindAllByUuid(ctx, d.rt, &req)
		if err != nil {
			return nil, err
		}
		for _, r := range res.Returnval {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// findToken returns the machine that a token made, or "".
func (d *driver) findToken(ctx context.Context, token string) (hypervisor.VMID, error) {
	refs, err := d.withUUIDs(ctx, token)
	if err != nil || len(refs) == 0 {
		return "", err
	}
	list, err := d.some(ctx, refs, []string{tokenPath, "config.instanceUuid", "config.uuid"})
	for _, o := range list {
		if ownToken(props(o)) == token {
			return hypervisor.VMID(o.Obj.Value), err
		}
	}
	return "", err
}
