package xen

import (
	"encoding/xml"
	"strings"
)

// disksKey of a template's other_config lists the disks that VM.provision
// makes, as <provision><disk device="0" size="…" sr="…" bootable="true"
// type="system"/></provision> (xen-api's ocaml/xapi/xapi_templates.ml). An
// empty sr stands for the pool's default.
const disksKey = "disks"

// placeDisks puts all disks of a list on one SR.
func placeDisks(list, sr string) (string, error) {
	var p struct {
		XMLName xml.Name `xml:"provision"`
		Disks   []struct {
			Attrs []xml.Attr `xml:",any,attr"`
		} `xml:"disk"`
	}
	if err := xml.Unmarshal([]byte(list), &p); err != nil {
		return "", err
	}
	for i := range p.Disks {
		placed := false
		for k := range p.Disks[i].Attrs {
			if a := &p.Disks[i].Attrs[k]; a.Name.Local == "sr" {
				a.Value, placed = sr, true
			}
		}
		if !placed {
			p.Disks[i].Attrs = append(p.Disks[i].Attrs, xml.Attr{Name: xml.Name{Local: "sr"}, Value: sr})
		}
	}
	var b strings.Builder
	err := xml.NewEncoder(&b).Encode(p)
	return b.String(), err
}
