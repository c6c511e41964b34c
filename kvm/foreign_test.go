//go:build cgo

package kvm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

// otherTool works on the lab as virsh, virt-manager or a backup product does.
type otherTool struct{ l *kvmlab.Lab }

// slot is the target of a foreign disk.
const slot = "vdf"

var toolSerial atomic.Uint64

func foreignCases(l *kvmlab.Lab) []hypervisortest.Foreign {
	o := otherTool{l}
	// Each row takes about a second: a verb is left out where another shows the
	// same.
	cloned := []string{"reconfigure", "clone-full", "clone-linked", "template", "deploy-full", "migrate"}
	return []hypervisortest.Foreign{
		{Name: "volume-disk", Kind: hypervisortest.PartDisk, Add: o.volumeDisk},
		{Name: "disk-in-no-pool", Kind: hypervisortest.PartDisk, Add: o.diskElsewhere,
			Verbs: []string{"list", "snapshot", "clone-full", "clone-linked", "migrate", "detach-delete", "delete-disks", "keep-disks"}},
		{Name: "partial-snapshot", Kind: hypervisortest.PartDisk, Snapshot: "part", Add: o.partialSnapshot,
			Verbs: []string{"snapshot", "delete-snapshot", "delete-disks", "revert-to-its-snapshot", "delete-its-snapshot", "clone-of-its-snapshot"}},
		{Name: "cd-first", Kind: hypervisortest.PartDisk, Add: o.cd, Verbs: []string{"list", "attach-disk", "snapshot", "clone-full", "migrate", "delete-disks"}},
		{Name: "hostdev-adapter", Kind: hypervisortest.PartDevice, Add: o.hostdevAdapter, Verbs: append([]string{"list", "revert", "detach-device"}, cloned...)},
		{Name: "vnc-port", Kind: hypervisortest.PartSetting, Add: o.vncPort, Verbs: cloned},
		{Name: "firmware-variables", Kind: hypervisortest.PartSetting, Add: o.variables, Verbs: cloned},
		{Name: "memory-module", Kind: hypervisortest.PartSetting, Add: o.module, Verbs: cloned},
		{Name: "metadata", Kind: hypervisortest.PartSetting, Add: o.metadata, Verbs: cloned},
		{Name: "backup-overlay", Kind: hypervisortest.PartSetting, Add: o.backupOverlay,
			Verbs: []string{"snapshot", "delete-snapshot", "clone-full", "clone-linked", "template", "delete-disks", "keep-disks"}},
		{Name: "internal-snapshot", Kind: hypervisortest.PartSnapshot, Snapshot: "internal", Add: o.internalSnapshot,
			Verbs: []string{"list", "snapshot", "revert", "delete-snapshot", "clone-full", "migrate", "delete-disks", "revert-to-its-snapshot", "delete-its-snapshot", "clone-of-its-snapshot"}},
		{Name: "child-image", Kind: hypervisortest.PartDependant, Add: o.child,
			Verbs: []string{"list", "revert", "delete-snapshot", "clone-linked", "template", "migrate-storage", "delete-disks"}},
	}
}

// domain is what a part can be seen in.
type domain struct {
	Memory int64  `xml:"memory"`
	NVRAM  string `xml:"os>nvram"`
	Disks  []struct {
		Device string `xml:"device,attr"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
		Source struct {
			File   string `xml:"file,attr"`
			Pool   string `xml:"pool,attr"`
			Volume string `xml:"volume,attr"`
		} `xml:"source"`
	} `xml:"devices>disk"`
	Graphics []struct {
		Type string `xml:"type,attr"`
		Port string `xml:"port,attr"`
		Auto string `xml:"autoport,attr"`
	} `xml:"devices>graphics"`
	NICs []struct {
		Type string `xml:"type,attr"`
	} `xml:"devices>interface"`
	Jobs []string `xml:"metadata>job"`
}

func (o otherTool) domain(ctx context.Context, id hypervisor.VMID) (d domain, doc string, err error) {
	if doc, err = virshOn(ctx, o.l, id, "dumpxml", "--inactive"); err != nil {
		return d, "", err
	}
	return d, doc, xml.Unmarshal([]byte(doc), &d)
}

// host has the machine.
func (o otherTool) host(ctx context.Context, id hypervisor.VMID) (*kvmlab.Host, error) {
	for _, h := range o.l.Hosts {
		if _, err := h.Virsh(ctx, "domstate", string(id)); err == nil {
			return h, nil
		}
	}
	return nil, fmt.Errorf("machine %s: %w", id, hypervisor.ErrNotFound)
}

// edit changes a definition as "virsh edit" does.
func (o otherTool) edit(ctx context.Context, id hypervisor.VMID, change func(string) string) error {
	h, err := o.host(ctx, id)
	if err != nil {
		return err
	}
	_, doc, err := o.domain(ctx, id)
	if err != nil {
		return err
	}
	now := change(doc)
	if now == doc {
		return errors.New("nothing to change in " + doc)
	}
	_, err = h.Virsh(ctx, "define", o.l.WriteXML(now))
	return err
}

func before(mark, text string) func(string) string {
	return func(doc string) string { return strings.Replace(doc, mark, text+mark, 1) }
}

// at is the disk in a machine's slot.
func (o otherTool) at(ctx context.Context, id hypervisor.VMID) (string, error) {
	d, _, err := o.domain(ctx, id)
	if err != nil {
		return "", err
	}
	for _, x := range d.Disks {
		switch {
		case x.Target.Dev != slot:
		case x.Source.Volume == "":
			return x.Source.File, nil
		default:
			h, err := o.host(ctx, id)
			if err != nil {
				return "", err
			}
			p, err := h.Virsh(ctx, "vol-path", "--pool", x.Source.Pool, x.Source.Volume)
			return strings.TrimSpace(p), err
		}
	}
	return "", fmt.Errorf("machine %s has no disk %s: %w", id, slot, hypervisor.ErrNotFound)
}

func (o otherTool) content(ctx context.Context, path string) (string, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("image %s: %w", path, hypervisor.ErrNotFound)
	}
	return readImage(ctx, o.l, path)
}

// image makes an image of 16 MiB.
func (o otherTool) image(ctx context.Context, dir string, args ...string) (string, error) {
	p := filepath.Join(dir, fmt.Sprintf("part-%d.qcow2", toolSerial.Add(1)))
	if err := run(ctx, "qemu-img", append([]string{"create", "-q", "-f", "qcow2"}, append(args, p, "16M")...)...); err != nil {
		return "", err
	}
	_, err := o.l.Hosts[0].Virsh(ctx, "pool-refresh", "shared")
	if err == nil {
		_, err = o.l.Hosts[1].Virsh(ctx, "pool-refresh", "shared")
	}
	return p, err
}

// disk is a part that is an image in the slot; element is what the definition
// says of it.
func (o otherTool) disk(ctx context.Context, id hypervisor.VMID, path, kind, source string) (*hypervisortest.Part, error) {
	p := &hypervisortest.Part{Names: []string{slot, path, filepath.Base(path)}, SizeBytes: 16 * hypervisor.MiB,
		Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
			if p.Where, err = o.at(ctx, id); err == nil {
				p.Content, err = o.content(ctx, p.Where)
			}
			return p, err
		},
		Left: func(ctx context.Context) (string, error) { return o.content(ctx, path) },
		Write: func(ctx context.Context, id hypervisor.VMID, content string) error {
			at, err := o.at(ctx, id)
			if err != nil {
				return err
			}
			return writeImage(ctx, o.l, at, content)
		},
		Remove: func(context.Context) error { return os.RemoveAll(path) }}
	if err := writeImage(ctx, o.l, path, "theirs"); err != nil {
		return p, err
	}
	return p, o.edit(ctx, id, before("</devices>", fmt.Sprintf(`<disk type='%s' device='disk'><driver name='qemu' type='qcow2'/><source %s/><target dev='%s' bus='virtio'/></disk>`, kind, source, slot)))
}

// volumeDisk is a disk that names a pool and a volume in place of a path.
func (o otherTool) volumeDisk(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	path, err := o.image(ctx, o.l.Shared)
	if err != nil {
		return nil, err
	}
	return o.disk(ctx, id, path, "volume", fmt.Sprintf("pool='shared' volume='%s'", filepath.Base(path)))
}

// folder is one that is no pool.
func (o otherTool) folder() (string, error) {
	dir := filepath.Join(o.l.Dir, "nopool")
	return dir, os.MkdirAll(dir, 0o755)
}

func (o otherTool) diskElsewhere(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	dir, err := o.folder()
	if err != nil {
		return nil, err
	}
	path, err := o.image(ctx, dir)
	if err != nil {
		return nil, err
	}
	return o.disk(ctx, id, path, "file", fmt.Sprintf("file='%s'", path))
}

// partialSnapshot leaves the disk out.
func (o otherTool) partialSnapshot(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	path, err := o.image(ctx, o.l.Shared)
	if err != nil {
		return nil, err
	}
	p, err := o.disk(ctx, id, path, "file", fmt.Sprintf("file='%s'", path))
	if err == nil {
		_, err = virshOn(ctx, o.l, id, "snapshot-create-as", "part", "--disk-only", "--diskspec", slot+",snapshot=no")
	}
	return p, err
}

// cd is an ISO image of a pool of its own, in the first drive.
func (o otherTool) cd(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	dir := filepath.Join(o.l.Dir, "isos")
	iso := filepath.Join(dir, "install.iso")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(iso, make([]byte, 1<<20), 0o644); err != nil {
		return nil, err
	}
	h, err := o.host(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"pool-define-as", "isos", "dir", "--target", dir}, {"pool-start", "isos"}} {
		if _, err := h.Virsh(ctx, args...); err != nil {
			return nil, err
		}
	}
	p := &hypervisortest.Part{Names: []string{"sda", iso}, ReadOnly: true, Shared: true, Left: func(context.Context) (string, error) {
		b, err := os.ReadFile(iso)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", hypervisor.ErrNotFound, err)
		}
		return fmt.Sprint(len(b)), err
	}, Remove: func(ctx context.Context) error {
		for _, args := range [][]string{{"pool-destroy", "isos"}, {"pool-undefine", "isos"}} {
			if _, err := h.Virsh(ctx, args...); err != nil {
				return err
			}
		}
		return nil
	}}
	return p, o.edit(ctx, id, before("<disk ", `<disk type='file' device='cdrom'><source file='`+iso+`'/><target dev='sda' bus='sata'/><readonly/></disk>`))
}

// backupOverlay puts an overlay on the machine's disk, as a backup tool leaves
// one.
func (o otherTool) backupOverlay(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	base, err := firstDisk(ctx, o.l, id)
	if err != nil {
		return nil, err
	}
	over := strings.TrimSuffix(base, filepath.Ext(base)) + ".backup"
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over); err != nil {
		return nil, err
	}
	for _, h := range o.l.Hosts {
		if _, err := h.Virsh(ctx, "pool-refresh", "shared"); err != nil {
			return nil, err
		}
	}
	return &hypervisortest.Part{Names: []string{base, filepath.Base(base), "vda"},
		Left: func(ctx context.Context) (string, error) {
			if _, _, err := o.domain(ctx, id); err == nil { // what is below may be merged into the overlay
				return "base", nil
			}
			_, err := o.content(ctx, base)
			return "base", err
		},
		Remove: func(context.Context) error {
			return errors.Join(os.RemoveAll(base), os.RemoveAll(over))
		},
	}, o.edit(ctx, id, func(doc string) string { return strings.Replace(doc, "file='"+base+"'", "file='"+over+"'", 1) })
}

// internalSnapshot is inside the machine's image.
func (o otherTool) internalSnapshot(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	_, err := virshOn(ctx, o.l, id, "snapshot-create-as", "internal")
	return &hypervisortest.Part{Names: []string{"internal"}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		list, err := virshOn(ctx, o.l, id, "snapshot-list", "--name")
		if err != nil {
			return p, err
		}
		gone := fmt.Errorf("snapshot internal of machine %s: %w", id, hypervisor.ErrNotFound)
		if !slices.Contains(strings.Fields(list), "internal") {
			return p, gone
		}
		top, err := firstDisk(ctx, o.l, id)
		if err != nil {
			return p, err
		}
		chain, err := imageChain(ctx, top)
		for _, f := range chain {
			out, err := exec.CommandContext(ctx, "qemu-img", "snapshot", "-U", "-l", f).Output()
			if err == nil && strings.Contains(string(out), "internal") {
				return hypervisortest.Place{Where: f, Content: "there"}, nil
			}
		}
		if err == nil {
			err = fmt.Errorf("it is in no image of %v: %w", chain, gone)
		}
		return p, err
	}}, err
}

// child is a machine whose image depends on the machine's, in no pool.
func (o otherTool) child(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	dir, err := o.folder()
	if err != nil {
		return nil, err
	}
	base, err := firstDisk(ctx, o.l, id)
	if err != nil {
		return nil, err
	}
	h, err := o.host(ctx, id)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fmt.Sprintf("child-%d.qcow2", toolSerial.Add(1)))
	name := strings.TrimSuffix(filepath.Base(path), ".qcow2")
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path); err != nil {
		return nil, err
	}
	_, err = h.Virsh(ctx, "define", o.l.WriteXML(`<domain type='qemu'><name>`+name+`</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='`+path+`'/><target dev='vda' bus='virtio'/></disk></devices></domain>`))
	return &hypervisortest.Part{Names: []string{name, path}, Shared: true, Left: func(ctx context.Context) (string, error) {
		if _, err := os.Stat(base); errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("the base of %s: %w", path, hypervisor.ErrNotFound)
		}
		return o.content(ctx, path)
	},
		Remove: func(ctx context.Context) error {
			_, err := h.Virsh(ctx, "undefine", name)
			return errors.Join(err, os.RemoveAll(path))
		}}, err
}
