package fake_test

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

var parts atomic.Uint64

// partNames begin the names of parts.
var partNames = map[fake.ForeignKind]string{fake.ForeignShared: "disk-", fake.ForeignHostDisk: "/dev/mapper/", fake.ForeignDevice: "usb-",
	fake.ForeignSetting: "backup-", fake.ForeignSnapshot: "internal", fake.ForeignChild: "child-"}

func partName(kind fake.ForeignKind, n uint64) string {
	if kind == fake.ForeignSnapshot {
		return partNames[kind]
	}
	return fmt.Sprint(partNames[kind], n)
}

// foreignCases are the parts that a backend can have.
func foreignCases(p *fake.Backend) (out []hypervisortest.Foreign) {
	for _, c := range []struct {
		name string
		kind fake.ForeignKind
		is   hypervisortest.PartKind
	}{
		{"shared-image", fake.ForeignShared, hypervisortest.PartDisk},
		{"raw-disk", fake.ForeignHostDisk, hypervisortest.PartDisk},
		{"unknown-device", fake.ForeignDevice, hypervisortest.PartDevice},
		{"metadata", fake.ForeignSetting, hypervisortest.PartSetting},
		{"internal-snapshot", fake.ForeignSnapshot, hypervisortest.PartSnapshot},
		{"child-image", fake.ForeignChild, hypervisortest.PartDependant},
	} {
		f := hypervisortest.Foreign{Name: c.name, Kind: c.is}
		if c.kind == fake.ForeignSnapshot {
			f.Snapshot = "internal"
		}
		f.Add = func(_ context.Context, id vmID) (*hypervisortest.Part, error) { return addForeign(p, id, c.kind) }
		out = append(out, f)
	}
	return out
}

func addForeign(p *fake.Backend, id vmID, kind fake.ForeignKind) (*hypervisortest.Part, error) {
	name := partName(kind, parts.Add(1))
	got, err := p.AddForeign(id, fake.Foreign{Kind: kind, Name: name, Data: "theirs"})
	if err != nil {
		return nil, err
	}
	out := &hypervisortest.Part{Names: []string{got, name}}
	if kind != fake.ForeignChild {
		out.Look = func(_ context.Context, id vmID) (at hypervisortest.Place, err error) {
			at.Where, at.Content, err = p.Foreign(id, kind, name)
			return at, err
		}
	}
	var image hypervisor.VolumeID
	switch kind {
	case fake.ForeignShared, fake.ForeignHostDisk:
		out.SizeBytes, out.Shared = 16*hypervisor.MiB, true
		out.Write = func(_ context.Context, id vmID, content string) error {
			return p.WriteDisk(id, 1, content)
		}
		if kind == fake.ForeignHostDisk {
			out.Left = func(context.Context) (string, error) { return p.HostDisk(name) }
			return out, nil
		}
		where, _, err := p.Foreign(id, kind, name)
		if err != nil {
			return nil, err
		}
		image = hypervisor.VolumeID(where)
		out.Names = append(out.Names, where)
	case fake.ForeignChild:
		image = hypervisor.VolumeID(got)
	default:
		return out, nil
	}
	out.Left = func(context.Context) (string, error) { return p.ReadVolume(image) }
	out.Remove = func(context.Context) error { p.RemoveVolume(image); return nil }
	return out, nil
}
