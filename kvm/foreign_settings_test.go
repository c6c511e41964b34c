//go:build cgo

package kvm

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

// setting is a part that find sees in a definition.
func (o otherTool) setting(names []string, find func(domain, string) (hypervisortest.Place, bool)) *hypervisortest.Part {
	return &hypervisortest.Part{Names: names, Look: func(ctx context.Context, id hypervisor.VMID) (hypervisortest.Place, error) {
		d, doc, err := o.domain(ctx, id)
		if err != nil {
			return hypervisortest.Place{}, err
		}
		p, ok := find(d, doc)
		if !ok {
			return p, fmt.Errorf("%s of machine %s: %w", names[0], id, hypervisor.ErrNotFound)
		}
		if p.Where == "" {
			p.Where = string(id)
		}
		return p, nil
	}}
}

// hostdevAdapter is a function of a card of the host, as an adapter.
func (o otherTool) hostdevAdapter(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	p := o.setting([]string{"0000:03:10.1", "pci_0000_03_10_1"}, func(d domain, doc string) (hypervisortest.Place, bool) {
		for _, n := range d.NICs {
			if n.Type == "hostdev" {
				return hypervisortest.Place{Where: "0000:03:10.1", Content: "function"}, true
			}
		}
		return hypervisortest.Place{}, false
	})
	return p, o.edit(ctx, id, before("</devices>", `<interface type='hostdev' managed='yes'><source><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1'/></source></interface>`))
}

// vncPort is a port of the host that one machine can have.
func (o otherTool) vncPort(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	p := o.setting([]string{"5977", "VNC", "graphics"}, func(d domain, _ string) (hypervisortest.Place, bool) {
		for _, g := range d.Graphics {
			if g.Type == "vnc" {
				return hypervisortest.Place{Where: map[bool]string{true: "5977"}[g.Port == "5977"], Content: "vnc"}, true
			}
		}
		return hypervisortest.Place{}, false
	})
	return p, o.edit(ctx, id, before("</devices>", `<graphics type='vnc' port='5977' autoport='no'/>`))
}

// variables are those of UEFI, in a file that one machine writes.
func (o otherTool) variables(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	dir := filepath.Join(o.l.Dir, "fw")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	mine := filepath.Join(dir, fmt.Sprintf("mine-%d.fd", toolSerial.Add(1)))
	for name, data := range map[string]string{filepath.Join(dir, "CODE.fd"): "code", filepath.Join(dir, "VARS.fd"): "empty", mine: "keys"} {
		if err := os.WriteFile(name, append([]byte(data), make([]byte, 1<<18)...), 0o644); err != nil {
			return nil, err
		}
	}
	p := o.setting([]string{mine, filepath.Base(mine), "firmware variables", "UEFI variables", "NVRAM"}, func(d domain, _ string) (hypervisortest.Place, bool) {
		if d.NVRAM == "" {
			return hypervisortest.Place{}, false
		}
		b, err := os.ReadFile(d.NVRAM)
		if err != nil {
			return hypervisortest.Place{Where: d.NVRAM, Content: err.Error()}, true
		}
		return hypervisortest.Place{Where: d.NVRAM, Content: strings.TrimRight(string(b), "\x00")}, true
	})
	p.Remove = func(context.Context) error { return os.RemoveAll(mine) }
	return p, o.edit(ctx, id, func(doc string) string {
		return strings.Replace(doc, "</type>", fmt.Sprintf(`</type><loader readonly='yes' type='pflash'>%s/CODE.fd</loader><nvram template='%s/VARS.fd'>%s</nvram>`, dir, dir, mine), 1)
	})
}

var reMemory = regexp.MustCompile(`(?s)<memory unit='KiB'>(\d+)</memory>`)
var reCPU = regexp.MustCompile(`(?s)<cpu [^>]*?/>|<cpu [^>]*>.*?</cpu>`)

// module is a memory module of 128 MiB beside a NUMA cell.
func (o otherTool) module(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	whole := ""
	p := o.setting([]string{"memory module", "dimm"}, func(d domain, doc string) (hypervisortest.Place, bool) {
		now := fmt.Sprint(d.Memory)
		if whole == "" {
			whole = now
		}
		if d.Memory < 132<<10 { // a template has 1 KiB beside the module, and its own definition is kept elsewhere
			now = whole
		}
		return hypervisortest.Place{Content: now}, strings.Contains(doc, "<memory model='dimm'")
	})
	return p, o.edit(ctx, id, func(doc string) string {
		m := reMemory.FindStringSubmatch(doc)
		if m == nil {
			return doc
		}
		doc = reCPU.ReplaceAllString(doc, "")
		doc = strings.Replace(doc, m[0], "<maxMemory slots='4' unit='GiB'>2</maxMemory>"+m[0], 1)
		doc = strings.Replace(doc, "<devices>", "<cpu><numa><cell id='0' cpus='0' memory='"+m[1]+"' unit='KiB'/></numa></cpu><devices>", 1)
		return before("</devices>", `<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>`)(doc)
	})
}

// metadata is what another tool keeps in the definition.
func (o otherTool) metadata(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	p := o.setting([]string{"backup.example"}, func(d domain, _ string) (hypervisortest.Place, bool) {
		return hypervisortest.Place{Content: strings.Join(d.Jobs, " ")}, len(d.Jobs) > 0
	})
	_, err := virshOn(ctx, o.l, id, "metadata", "--uri", "http://backup.example/job", "--key", "b", "--set", "<job>nightly-7</job>", "--config")
	return p, err
}

// imageChain is an image and those below it, as their headers tell.
func imageChain(ctx context.Context, top string) (out []string, err error) {
	data, err := exec.CommandContext(ctx, "qemu-img", "info", "-U", "--backing-chain", "--output=json", top).Output()
	if err != nil {
		return nil, fmt.Errorf("qemu-img info %s: %w", top, err)
	}
	var list []struct {
		Filename string `json:"filename"`
	}
	err = json.Unmarshal(data, &list)
	for _, i := range list {
		out = append(out, i.Filename)
	}
	return out, err
}

// sameChain compares the chain of images that QEMU works on with the one in the
// headers.
func sameChain(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) error {
	doc, err := virshOn(ctx, l, id, "dumpxml")
	if err != nil {
		return err
	}
	type layer struct {
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
		Below *layer `xml:"backingStore"`
	}
	var x struct {
		Disks []layer `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return err
	}
	for _, d := range x.Disks {
		var live []string
		for b := &d; b != nil && b.Source.File != ""; b = b.Below {
			live = append(live, b.Source.File)
		}
		headers, err := imageChain(ctx, d.Source.File)
		if err != nil {
			return err
		}
		if !slices.Equal(live, headers) {
			return fmt.Errorf("QEMU works on %v, the headers of the images name %v: what is in the others is lost at the next start", live, headers)
		}
	}
	return nil
}
