package xen

import (
	"context"
	"encoding/xml"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// disksKey is the key of a template's other_config with the disks that
// VM.provision makes, as <provision><disk device="0" size="…" sr="…"
// bootable="true" type="system"/></provision> (xen-api's
// ocaml/xapi/xapi_templates.ml). The default templates have an empty sr, which
// VM.provision refuses.
const disksKey = "disks"

// placeDisks puts the disks of a template's list on a datastore, or, if sr is
// Null, those without one on the pool's default. It returns the new list.
func (d *driver) placeDisks(ctx context.Context, on hypervisor.Ref, list string, sr xapi.Ref) (string, error) {
	var p struct {
		XMLName xml.Name `xml:"provision"`
		Disks   []struct {
			Attrs []xml.Attr `xml:",any,attr"`
		} `xml:"disk"`
	}
	if err := xml.Unmarshal([]byte(list), &p); err != nil {
		return "", hypervisor.Errorf(hypervisor.ErrUnsupported, on, "the template's list of disks: %w", err)
	}
	all, to := !sr.IsNull(), ""
	for i := range p.Disks {
		var place *xml.Attr
		for k := range p.Disks[i].Attrs {
			if a := &p.Disks[i].Attrs[k]; a.Name.Local == "sr" {
				place = a
			}
		}
		if place == nil {
			p.Disks[i].Attrs = append(p.Disks[i].Attrs, xml.Attr{Name: xml.Name{Local: "sr"}})
			place = &p.Disks[i].Attrs[len(p.Disks[i].Attrs)-1]
		}
		if !all && place.Value != "" {
			if _, err := d.byUUID(ctx, "SR", place.Value); err != nil {
				return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the template puts a disk on datastore %s, which this pool does not have: name one in Placement.Datastore (%w)", place.Value, err)
			}
			continue
		}
		if to == "" {
			var err error
			if to, err = d.uuidOrDefault(ctx, on, sr); err != nil {
				return "", err
			}
		}
		place.Value = to
	}
	var b strings.Builder
	err := xml.NewEncoder(&b).Encode(p)
	return b.String(), err
}

// uuidOrDefault is the ID of a datastore, or of the pool's default one.
func (d *driver) uuidOrDefault(ctx context.Context, on hypervisor.Ref, sr xapi.Ref) (string, error) {
	if sr.IsNull() {
		pool, _, err := d.pool(ctx)
		if err != nil {
			return "", err
		}
		if sr = pool.DefaultSR; sr.IsNull() {
			return "", errNoDefault(on)
		}
	}
	var uuid string
	err := d.c.Call(ctx, &uuid, "SR.get_uuid", sr)
	return uuid, d.defaultGone(ctx, on, sr, err)
}

// defaultGone explains an error that comes from a default datastore of the
// pool that is gone.
func (d *driver) defaultGone(ctx context.Context, on hypervisor.Ref, sr xapi.Ref, err error) error {
	if kindOf(err) != hypervisor.ErrNotFound {
		return err
	}
	if pool, _, perr := d.pool(ctx); perr == nil && pool.DefaultSR == sr {
		return errors.Join(errNoDefault(on), err)
	}
	return err
}

func errNoDefault(on hypervisor.Ref) error {
	return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the pool has no default datastore: name one in Placement.Datastore")
}
