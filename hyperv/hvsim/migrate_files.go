package hvsim

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// newer compares configuration versions.
func newer(a, b string) bool {
	x, _ := strconv.ParseFloat(a, 64)
	y, _ := strconv.ParseFloat(b, 64)
	return x > y
}

// cpuFits reports whether a CPU is compatible: always the same vendor, and every feature of the source unless the machine is
// limited to the common ones [D: "Processor compatibility mode"].
func cpuFits(src, dst *Host, limited bool) bool {
	if src.cfg.CPU.Vendor != dst.cfg.CPU.Vendor {
		return false
	}
	for _, f := range src.cfg.CPU.Features {
		if !limited && !slices.Contains(dst.cfg.CPU.Features, f) {
			return false
		}
	}
	return true
}

// planFiles decides the destination of each disk file and returns what prevents the move.
func (g *migration) planFiles() []fail {
	var out []fail
	no := func(f *fail) { out = append(out, *f) }
	g.files, g.sources = map[string]string{}, map[string]string{}
	moves := g.kind == migStorage || g.kind == migBoth || g.kind == migDeepCheck
	configs := append([]*config{g.m.cfg}, g.m.configs()...)
	set := func(from, to string) {
		if _, done := g.files[key(from)]; !done {
			g.files[key(from)], g.sources[key(from)] = to, from
		}
	}
	for _, u := range g.set.Strings("UnmanagedVhds") {
		i, err := cimx.Parse(g.src.virt.ns, g.src.cfg.Name, u)
		if err != nil || i.Class.Name != "Msvm_MoveUnmanagedVhd" || g.src.disk(i.Str("VhdSourcePath")) == nil {
			no(&fail{code: rvInvalidParam, text: "An unmanaged virtual hard disk is not valid."})
			continue
		}
		set(i.Str("VhdSourcePath"), i.Str("VhdDestinationPath"))
	}
	for _, c := range configs {
		for _, d := range c.disks() {
			if r := g.res[strings.ToLower(d.Str("InstanceID"))]; r != nil && hostResource(r) != "" && moves {
				if !absolute(hostResource(r)) {
					no(&fail{code: rvInvalidParam, text: "'" + hostResource(r) + "' is no path."})
				}
				set(hostResource(d), hostResource(r))
			}
		}
	}
	for _, c := range configs {
		for _, d := range c.disks() {
			p := hostResource(d)
			l, good := g.src.chain(p)
			if !good {
				no(corrupt(p))
				continue
			}
			for n, q := range l {
				managed := n == 0 || slices.ContainsFunc(configs, func(c *config) bool { return c.uses(q) })
				switch {
				case g.files[key(q)] != "":
				case moves && managed && g.files[key(p)] != "":
					set(q, join(dir(g.files[key(p)]), base(q))) // the rest of a moved chain moves too
				case moves && managed && g.dst != g.src && g.src.fs(q) != g.dst.fs(q):
					set(q, q) // to the same path on the other host (believed)
				case g.src.fs(q) != g.dst.fs(q):
					no(&fail{code: rvFailed, text: "Virtual machine '" + g.m.name() + "' cannot be moved: disk '" + q + "' is not accessible on host '" + g.dst.cfg.Name + "'. (0x80070002)"})
				}
			}
		}
	}
	var need uint64
	for k, to := range g.files {
		f := g.src.file(g.sources[k])
		if f == nil || k == key(to) && g.src.fs(to) == g.dst.fs(to) {
			continue
		}
		need += f.bytes()
		if g.dst.file(to) != nil && !g.set.Bool("AllowOverwriteExistingFile") {
			no(&fail{code: rvFailed, text: "The file '" + to + "' exists on host '" + g.dst.cfg.Name + "'. (0x80070050)"})
		}
	}
	for _, to := range g.files {
		if need > g.dst.freeDisk(to) {
			no(&fail{code: rvFailed, text: "There is not enough space on the disk. (0x80070070)"})
			break
		}
	}
	return out
}

func (c *config) uses(p string) bool {
	return slices.ContainsFunc(c.disks(), func(d *cimx.Instance) bool { return key(hostResource(d)) == key(p) })
}

// transfer copies the planned files and removes the sources that do not stay.
func (g *migration) transfer() {
	var gone []string
	unmanaged := map[string]bool{}
	for _, u := range g.set.Strings("UnmanagedVhds") {
		if i, err := cimx.Parse(g.src.virt.ns, g.src.cfg.Name, u); err == nil {
			unmanaged[key(i.Str("VhdSourcePath"))] = true
		}
	}
	made := map[string]bool{}
	for k, to := range g.files {
		from := g.sources[k]
		if k == key(to) && g.src.fs(to) == g.dst.fs(to) {
			continue
		}
		g.src.copyFile(from, g.dst, to)
		made[key(to)] = true
		keep := g.set.Bool("RetainVhdCopiesOnSource") || g.set.Bool("AvoidRemovingVHDs") || unmanaged[k] && !g.set.Bool("RemoveSourceUnmanagedVhds")
		if !keep {
			gone = append(gone, from)
		}
	}
	for _, to := range g.files {
		if d := g.dst.disk(to); d != nil && made[key(to)] && d.kind == diskDiff {
			if p := g.files[key(d.parent)]; p != "" {
				d.parent = p
			}
		}
	}
	for _, p := range gone {
		if f := g.src.file(p); f != nil && !(g.src.fs(p) == g.dst.fs(p) && made[key(p)]) {
			g.src.drop(p)
		}
	}
}

// redirect updates the disks of a configuration to their new files.
func (g *migration) redirect(c *config) {
	for _, d := range c.disks() {
		if to := g.files[key(hostResource(d))]; to != "" {
			d.Set("HostResource", []any{to})
		}
	}
}

// compat is the content of CompatibilityInfo, which is opaque to clients.
type compat struct {
	Vendor   string
	Features []string
	Limited  bool
	Version  string
	CPUs     uint64
}

func compatibilityInfo(c *call) uint32 {
	m := c.machine("ComputerSystem")
	if m == nil {
		return rvInvalidParam
	}
	p := m.cfg.one("Msvm_ProcessorSettingData")
	b, err := json.Marshal(compat{c.h.cfg.CPU.Vendor, c.h.cfg.CPU.Features, p.Bool("LimitProcessorFeatures"), m.cfg.sd.Str("Version"), p.Uint("VirtualQuantity")})
	if err != nil {
		return rvFailed
	}
	out := make([]any, len(b))
	for n, x := range b {
		out[n] = x
	}
	c.out["CompatibilityInfo"] = out
	return rvOK
}

// checkCompatibility names the reasons against a machine on this host [D: CheckSystemCompatibilityInfo].
func checkCompatibility(c *call) uint32 {
	a, _ := c.in["CompatibilityInfo"].([]any)
	b := make([]byte, len(a))
	for n, x := range a {
		b[n] = x.(uint8)
	}
	var k compat
	if json.Unmarshal(b, &k) != nil {
		return rvInvalidParam
	}
	from := &Host{cfg: HostConfig{CPU: CPU{Vendor: k.Vendor, Features: k.Features}}}
	reasons := []any{}
	if !cpuFits(from, c.h, k.Limited) {
		reasons = append(reasons, "The virtual machine is using processor-specific features not supported on this computer.")
	}
	if newer(k.Version, c.h.configVersion()) {
		reasons = append(reasons, "The configuration version is not supported.")
	}
	if k.CPUs > uint64(c.h.cfg.Processors) {
		reasons = append(reasons, "The virtual machine has more virtual processors than the host has logical processors.")
	}
	c.out["Reasons"] = reasons
	if len(reasons) > 0 {
		return rvFailed
	}
	return rvOK
}
