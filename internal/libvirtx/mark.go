package libvirtx

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// Namespace is the XML namespace of the element that this library keeps in a
// domain's <metadata>.
const Namespace = "https://anyvisor.dev/xmlns/libvirt/1"

// Prefix is the namespace prefix under which libvirt shows it.
const Prefix = "anyvisor"

// Mark is the data that this library stores in a domain.
type Mark struct {
	XMLName  xml.Name    `xml:"https://anyvisor.dev/xmlns/libvirt/1 machine"`
	Token    string      `xml:"token,omitempty"`
	Created  string      `xml:"created,omitempty"` // RFC 3339
	GuestOS  string      `xml:"guestOS,omitempty"`
	MinKiB   uint64      `xml:"minMemory,omitempty"` // of dynamic memory
	Labels   []MarkLabel `xml:"label"`
	Quiesced []string    `xml:"quiesced"` // snapshots taken of quiesced disks
	// Images that belong to the machine although its definition does not name
	// them: bases that a linked clone froze.
	Images   []string      `xml:"image"`
	Template *MarkTemplate `xml:"template"`
	Role     string        `xml:"role,omitempty"` // of a domain that is not a machine: "helper", "making"
	// Source is the machine that is copied. Overlays are the images that it
	// was given for the duration of the copy, which must be merged back.
	Source   string   `xml:"source,omitempty"`
	Overlays []string `xml:"overlay"`
	Task     string   `xml:"task,omitempty"` // the task that makes the machine
	Beat     string   `xml:"beat,omitempty"` // the heartbeat: changes while the task lives
}

// MarkLabel is one label.
type MarkLabel struct {
	Key   string `xml:"key,attr"`
	Value string `xml:",chardata"`
}

// MarkTemplate holds what a template's definition can't express.
type MarkTemplate struct {
	MemoryKiB  uint64 `xml:"memory"`
	CurrentKiB uint64 `xml:"currentMemory"`
}

// ReadMark finds the mark in the inner XML of <metadata>. Without one it
// returns an empty Mark.
func ReadMark(inner string) (Mark, error) {
	var m Mark
	_, err := scan(inner, func(d *xml.Decoder, s xml.StartElement) error { return d.DecodeElement(&m, &s) })
	return m, err
}

// PutMark returns the inner XML of <metadata> with the mark in place of an
// older one. Data that others keep there is not changed.
func PutMark(inner string, m Mark) (string, error) {
	rest, err := scan(inner, func(d *xml.Decoder, _ xml.StartElement) error { return d.Skip() })
	if err != nil {
		return "", err
	}
	own, err := m.XML()
	return rest + own, err
}

// XML returns the element.
func (m Mark) XML() (string, error) {
	m.XMLName = xml.Name{Space: Namespace, Local: "machine"}
	b, err := xml.Marshal(m)
	return string(b), err
}

// scan calls found for the mark's element and returns everything else
// unchanged.
func scan(inner string, found func(*xml.Decoder, xml.StartElement) error) (rest string, err error) {
	const open = "<metadata>"
	text := open + inner + "</metadata>"
	d := xml.NewDecoder(strings.NewReader(text))
	depth, from := 0, len(open)
	var b strings.Builder
	for {
		at := int(d.InputOffset())
		t, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("metadata: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth == 1 && t.Name.Space == Namespace && t.Name.Local == "machine" {
				b.WriteString(text[from:at])
				if err := found(d, t); err != nil {
					return "", fmt.Errorf("metadata: %w", err)
				}
				from = int(d.InputOffset())
				continue
			}
			depth++
		case xml.EndElement:
			if depth--; depth == 0 {
				b.WriteString(text[from:at])
			}
		}
	}
	return strings.TrimSpace(b.String()), nil
}

// SetLabels replaces all labels.
func (m *Mark) SetLabels(labels map[string]string) {
	m.Labels = nil
	for k, v := range labels {
		m.Labels = append(m.Labels, MarkLabel{k, v})
	}
}

// LabelMap returns the labels, or nil if there are none.
func (m Mark) LabelMap() map[string]string {
	if len(m.Labels) == 0 {
		return nil
	}
	out := make(map[string]string, len(m.Labels))
	for _, l := range m.Labels {
		out[l.Key] = l.Value
	}
	return out
}

// CreatedAt returns when the machine was made, or zero if that is unknown.
func (m Mark) CreatedAt() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, m.Created) // zero if unreadable
	return t
}
