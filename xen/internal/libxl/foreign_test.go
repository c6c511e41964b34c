//go:build cgo

package libxl

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
)

// otherTool works on the lab as virsh does. The driver's cases with KVM are
// more: both are one code (internal/libvirtx).
type otherTool struct{ l *xenlab.Lab }

// slot is the target of a foreign disk.
const slot = "xvdf"

var toolSerial atomic.Uint64

func foreignCases(l *xenlab.Lab) []hypervisortest.Foreign {
	o := otherTool{l}
	return []hypervisortest.Foreign{
		{Name: "volume-disk", Kind: hypervisortest.PartDisk, Add: o.volumeDisk},
		{Name: "vnc-port", Kind: hypervisortest.PartSetting, Add: o.vncPort},
		{Name: "child-image", Kind: hypervisortest.PartDependant, Add: o.child},
	}
}

// domain is what a part can be seen in.
type domain struct {
	Disks []struct {
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
		Source struct {
			File   string `xml:"file,attr"`
			Volume string `xml:"volume,attr"`
		} `xml:"source"`
	} `xml:"devices>disk"`
	Graphics []struct {
		Port string `xml:"port,attr"`
	} `xml:"devices>graphics"`
}

func (o otherTool) domain(ctx context.Context, id hypervisor.VMID) (s seen, d domain, doc string, err error) {
	if s, err = look(ctx, o.l, id); err == nil {
		doc, err = s.host.Virsh(ctx, "dumpxml", "--inactive", string(id))
	}
	if err == nil {
		err = xml.Unmarshal([]byte(doc), &d)
	}
	return s, d, doc, err
}

func (o otherTool) add(ctx context.Context, id hypervisor.VMID, element string) error {
	s, _, doc, err := o.domain(ctx, id)
	if err != nil {
		return err
	}
	_, err = s.host.Virsh(ctx, "define", o.l.WriteXML(strings.Replace(doc, "</devices>", element+"</devices>", 1)))
	return err
}

func (o otherTool) refresh(ctx context.Context) error {
	for _, h := range o.l.Hosts {
		if _, err := h.Virsh(ctx, "pool-refresh", "shared"); err != nil {
			return err
		}
	}
	return nil
}

// content is the first line of an image of a host: a raw one, or a QCOW2 one,
// which a copy is.
func content(ctx context.Context, h *xenlab.Host, path string) (string, error) {
	out, err := h.Run(ctx, fmt.Sprintf(`f='%s'; [ -e "$f" ] || { echo absent; exit; }
		if [ "$(head -c 3 "$f")" = QFI ]; then
			t=$(mktemp); qemu-img dd -U -f qcow2 -O raw bs=512 count=1 if="$f" of="$t" && head -c 512 "$t" | tr -d '\0'; rm -f "$t"
		else
			head -c 512 "$f" | tr -d '\0'
		fi`, path))
	if out = strings.TrimSpace(out); out == "absent" {
		return "", fmt.Errorf("%s: %w", path, hypervisor.ErrNotFound)
	}
	return out, err
}

// volumeDisk is a disk that names a pool and a volume in place of a path.
func (o otherTool) volumeDisk(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	name := fmt.Sprintf("part-%d.img", toolSerial.Add(1))
	write := func(name, content string) error {
		return os.WriteFile(filepath.Join(o.l.Shared, name), append([]byte(content), make([]byte, 16*int(hypervisor.MiB)-len(content))...), 0o644)
	}
	p := &hypervisortest.Part{Names: []string{slot, name}, SizeBytes: 16 * hypervisor.MiB,
		Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
			m, d, _, err := o.domain(ctx, id)
			if err != nil {
				return p, err
			}
			for _, x := range d.Disks {
				if x.Target.Dev == slot {
					path := cmp.Or(x.Source.File, xenlab.SharedDir+"/"+x.Source.Volume)
					p.Where = filepath.Base(path)
					p.Content, err = content(ctx, m.host, path)
					return p, err
				}
			}
			return p, fmt.Errorf("machine %s has no disk %s: %w", id, slot, hypervisor.ErrNotFound)
		},
		Left: func(ctx context.Context) (string, error) {
			return content(ctx, o.l.Hosts[0], xenlab.SharedDir+"/"+name)
		},
		Remove: func(context.Context) error { return os.RemoveAll(filepath.Join(o.l.Shared, name)) }}
	if err := write(name, "theirs"); err != nil {
		return p, err
	}
	if err := o.refresh(ctx); err != nil {
		return p, err
	}
	return p, o.add(ctx, id, fmt.Sprintf(`<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='shared' volume='%s'/><target dev='%s' bus='xen'/></disk>`, name, slot))
}

// vncPort is a port of the host that one machine can have.
func (o otherTool) vncPort(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	return &hypervisortest.Part{Names: []string{"5977", "VNC", "graphics"}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		_, d, _, err := o.domain(ctx, id)
		switch {
		case err != nil:
		case len(d.Graphics) == 0:
			err = fmt.Errorf("graphics of machine %s: %w", id, hypervisor.ErrNotFound)
		case d.Graphics[0].Port == "5977":
			return hypervisortest.Place{Where: "5977", Content: "vnc"}, nil
		default:
			return hypervisortest.Place{Where: string(id), Content: "vnc"}, nil
		}
		return p, err
	}}, o.add(ctx, id, `<graphics type='vnc' port='5977' autoport='no'/>`)
}

// child is an image of nobody on the machine's, in a folder that is no pool.
func (o otherTool) child(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	s, d, _, err := o.domain(ctx, id)
	if err != nil {
		return nil, err
	}
	base, ok := strings.CutPrefix(d.Disks[0].Source.File, xenlab.SharedDir+"/")
	if !ok {
		return nil, fmt.Errorf("the disk of %s is not in the shared folder: %s", id, d.Disks[0].Source.File)
	}
	name := fmt.Sprintf("child-%d", toolSerial.Add(1))
	path := "/root/" + name + ".qcow2"
	if _, err := s.host.Run(ctx, fmt.Sprintf("qemu-img create -q -f qcow2 -b %s/%s -F qcow2 %s", xenlab.SharedDir, base, path)); err != nil {
		return nil, err
	}
	_, err = s.host.Virsh(ctx, "define", o.l.WriteXML(`<domain type='xen'><name>`+name+`</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='xenpvh'>xenpvh</type><kernel>`+xenlab.GuestKernel+`</kernel></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='`+path+`'/><target dev='xvda' bus='xen'/></disk></devices></domain>`))
	return &hypervisortest.Part{Names: []string{name, path}, Shared: true,
		Left: func(ctx context.Context) (string, error) {
			_, err := lab.Command(ctx, "qemu-img", "info", "-U", filepath.Join(o.l.Shared, base))
			if _, serr := os.Stat(filepath.Join(o.l.Shared, base)); errors.Is(serr, os.ErrNotExist) {
				err = fmt.Errorf("the base of %s: %w", path, hypervisor.ErrNotFound)
			}
			return "its base is there", err
		},
		Remove: func(ctx context.Context) error {
			_, err := s.host.Virsh(ctx, "undefine", name)
			_, rerr := s.host.Run(ctx, "rm -f "+path)
			return errors.Join(err, rerr)
		}}, err
}
