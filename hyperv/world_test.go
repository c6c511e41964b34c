package hyperv

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// world is a simulated cluster of two hosts with a few machines and a Client
// on it.
type world struct {
	*site
	c   *hypervisor.Client
	off *hypervisor.VM // on the first host, a disk on shared storage and an adapter
	run *hypervisor.VM // the same, running
	// before is what there was before the operation.
	before truth
}

func worldSite() hvsim.Config {
	gpu := func(name string, product uint16, counts ...uint16) hvsim.GPU {
		return hvsim.GPU{Device: hvsim.Device{Name: name, Vendor: 0x10DE, Product: product}, PartitionCounts: counts}
	}
	return hvsim.Config{Hosts: []hvsim.HostConfig{{GPUs: []hvsim.GPU{gpu("NVIDIA A2", 0x25B6), gpu("NVIDIA A16", 0x2236, 1, 2, 4)}, Switches: []hvsim.Switch{{Name: "External", IOV: true}}}, {}},
		Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}}
}

func newWorld(t testing.TB, cfg hvsim.Config) *world {
	t.Helper()
	w := &world{site: startSite(t, cfg)}
	w.clock.slow(time.Millisecond) // jobs, that is
	w.config.PollLast, w.config.Connections = 2*time.Millisecond, 2
	w.config.TLS.CurvePreferences = []tls.CurveID{tls.X25519} // the quickest
	ids, err := w.sim.Host(0).Add(
		hvsim.Machine{Name: "off", Disks: []string{sharedStore + `\off.vhdx`}, Switch: "External", Notes: []string{"A machine."}},
		hvsim.Machine{Name: "run", Disks: []string{sharedStore + `\run.vhdx`}, Switch: "External", Running: true})
	if err != nil {
		t.Fatal(err)
	}
	w.c = openSite(t, w.site)
	w.off, w.run = w.c.VM(hypervisor.VMID(ids[0])), w.c.VM(hypervisor.VMID(ids[1]))
	return w
}

// settled is a context that ends only if something hangs.
func settled(t testing.TB) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(stop)
	return ctx
}

// truth is what the site has, told by the simulator itself.
type truth struct {
	machines map[string]hvsim.Fact // by ID
	files    map[string]bool       // as "host|path", those of shared storage as the path
	others   []string              // states of devices, and roles of the cluster
	lines    []string              // all of it, with nothing of chance in it
}

// without leaves out of comparisons what a regular expression says.
func (tr truth) without(chance string) truth {
	is := regexp.MustCompile(chance)
	tr.lines = slices.Clone(tr.lines)
	for i := range tr.lines {
		tr.lines[i] = is.ReplaceAllString(tr.lines[i], "")
	}
	slices.Sort(tr.lines)
	return tr
}

// truth waits for the end of all jobs and looks.
func (w *world) truth() truth {
	w.sim.Advance(time.Minute)
	out := truth{map[string]hvsim.Fact{}, map[string]bool{}, nil, nil}
	for _, f := range w.sim.Machines() {
		out.machines[f.Host+"|"+f.ID] = f
	}
	for i, h := range w.sim.Hosts() {
		for _, p := range h.Files() {
			if !shared(p) {
				p = w.config.Hosts[i] + "|" + p
			}
			out.files[p] = true
		}
		out.others = append(out.others, h.DeviceStates()...)
	}
	for _, r := range w.sim.Roles() {
		out.others = append(out.others, "role "+r)
	}
	out.print()
	return out
}

// What differs between two runs that end in the same.
var chance = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`,?"task":"[^"]*"`), ""},
	{regexp.MustCompile(`anyvisor:\{\}`), ""},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "host"},
	{regexp.MustCompile(`[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`), "GUID"},
	{regexp.MustCompile(`anyvisor(\\+)[0-9a-f]{16}`), `anyvisor$1#`},
	{regexp.MustCompile(`-[0-9a-f]{8}\.(a?vhdx)`), "-#.$1"},
	{regexp.MustCompile(`-[0-9a-f]{8}_`), "-#_"},
}

func (tr *truth) print() {
	var out []string
	for _, f := range tr.machines {
		me := fmt.Sprintf("machine %s on %s planned %t: ", f.Name, f.Host, f.Planned)
		out = append(out, fmt.Sprintf("%sstate %d", me, f.State))
		for _, s := range f.Settings {
			out = append(out, me+s)
		}
	}
	for p := range tr.files {
		out = append(out, "file "+p)
	}
	for i := range out {
		if !strings.ContainsAny(out[i], `\{`) {
			continue
		}
		for _, c := range chance {
			out[i] = c.is.ReplaceAllString(out[i], c.as)
		}
	}
	out = append(out, tr.others...)
	slices.Sort(out)
	tr.lines = out
}

// differs tells what one truth has and the other has not; "" if nothing.
func (tr truth) differs(want truth) string {
	var out []string
	a, b := tr.lines, want.lines
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0, len(a) > 0 && cmp.Compare(a[0], b[0]) < 0:
			out, a = append(out, "+ "+a[0]), a[1:]
		case len(a) == 0, a[0] > b[0]:
			out, b = append(out, "- "+b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return strings.Join(out, "\n")
}

// extras are what the site has now and had not before: machines, files that
// belong to none of them, and machines that have changed.
func (w *world) extras(now truth) (machines []hvsim.Fact, files []string, changed []hvsim.Fact) {
	for id, f := range now.machines {
		old, was := w.before.machines[id]
		switch {
		case !was:
			machines = append(machines, f)
		case f.Planned == old.Planned && !slices.Equal(f.Settings, old.Settings):
			changed = append(changed, f)
		}
	}
	for p := range now.files {
		own := slices.ContainsFunc(w.sim.Machines(), func(f hvsim.Fact) bool {
			return strings.HasSuffix(p, `Virtual Machines\`+f.ID+".vmcx") && !strings.Contains(p, `\anyvisor\`)
		})
		if !w.before.files[p] && !own {
			files = append(files, p)
		}
	}
	return machines, files, changed
}

// parts counts the settings of a machine: its own, those of its parts, and of
// its snapshots with theirs.
func (tr truth) parts(id string) int {
	for _, f := range tr.machines {
		if f.ID == id {
			return len(f.Settings)
		}
	}
	return 0
}

func (tr truth) partsOf(name string) int {
	for _, f := range tr.machines {
		if f.Name == name {
			return len(f.Settings)
		}
	}
	return 0
}

func (tr truth) machine(id string) bool {
	for _, f := range tr.machines {
		if f.ID == id {
			return true
		}
	}
	return false
}

func (tr truth) named(name string) bool {
	for _, f := range tr.machines {
		if f.Name == name {
			return true
		}
	}
	return false
}

// owner is the machine that an InstanceID belongs to.
func (w *world) owner(id string) *hypervisor.VM { return w.c.VM(hypervisor.VMID(ownerOf(id))) }

// snapshots are the settings of a machine's snapshots.
func (tr truth) snapshots(id hypervisor.VMID) []string {
	for _, f := range tr.machines {
		if f.ID == string(id) {
			return slices.DeleteFunc(slices.Clone(f.Settings), func(l string) bool { return !strings.HasPrefix(l, "checkpoint") })
		}
	}
	return nil
}
