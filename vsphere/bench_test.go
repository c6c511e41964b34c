package vsphere

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

const manyVMs = 10000

// nativeVM is what the hand-written program keeps of a machine.
type nativeVM struct {
	id, name, host string
	state          types.VirtualMachinePowerState
	template       bool
	cpus, memory   int32
}

// nativeList is the best program that hand-written govmomi allows: a container
// view that is kept, pages of the property collector, no reflection.
func nativeList(ctx context.Context, c *vim25.Client, v ref) ([]nativeVM, error) {
	pc := c.ServiceContent.PropertyCollector
	req := types.RetrievePropertiesEx{This: pc, Options: types.RetrieveOptions{MaxObjects: pageSize}, SpecSet: []types.PropertyFilterSpec{{
		ObjectSet: []types.ObjectSpec{{Obj: v, Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "ContainerView", Path: "view"}}}},
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: briefPaths}},
	}}}
	res, err := methods.RetrievePropertiesEx(ctx, c, &req)
	if err != nil {
		return nil, err
	}
	page := *res.Returnval
	var out []nativeVM
	for {
		for _, o := range page.Objects {
			m := nativeVM{id: o.Obj.Value}
			for _, p := range o.PropSet {
				switch p.Name {
				case "name":
					m.name, _ = p.Val.(string)
				case "runtime.powerState":
					m.state, _ = p.Val.(types.VirtualMachinePowerState)
				case "runtime.host":
					r, _ := p.Val.(ref)
					m.host = r.Value
				case "summary.config.template":
					m.template, _ = p.Val.(bool)
				case "summary.config.numCpu":
					m.cpus, _ = p.Val.(int32)
				case "summary.config.memorySizeMB":
					m.memory, _ = p.Val.(int32)
				}
			}
			out = append(out, m)
		}
		if page.Token == "" {
			return out, nil
		}
		next, err := methods.ContinueRetrievePropertiesEx(ctx, c, &types.ContinueRetrievePropertiesEx{This: pc, Token: page.Token})
		if err != nil {
			return nil, err
		}
		page = next.Returnval
	}
}

func listAll(ctx context.Context, c *hypervisor.Client) (int, error) {
	n := 0
	for _, err := range c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func benchSim(b *testing.B) (*vspheresim.Sim, *hypervisor.Client, *govmomi.Client, ref) {
	b.Helper()
	sim, err := vspheresim.Start(vspheresim.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(sim.Close)
	if err := sim.AddVMs("vm", manyVMs); err != nil {
		b.Fatal(err)
	}
	c, err := openSim(b.Context(), sim.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	g, err := govmomi.NewClient(b.Context(), sim.URL(), true)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(g.CloseIdleConnections)
	res, err := methods.CreateContainerView(b.Context(), g.Client, &types.CreateContainerView{This: *g.ServiceContent.ViewManager,
		Container: g.ServiceContent.RootFolder, Type: []string{"VirtualMachine"}, Recursive: true})
	if err != nil {
		b.Fatal(err)
	}
	return sim, c, g, res.Returnval
}

// BenchmarkList lists 10,000 machines with this driver and with the
// hand-written program, taking turns, and reports the ratio of their times and
// the calls of each.
func BenchmarkList(b *testing.B) {
	sim, c, g, v := benchSim(b)
	ctx := b.Context()
	if n, err := listAll(ctx, c); err != nil || n != manyVMs { // makes the view
		b.Fatalf("%d machines, %v", n, err)
	}
	var ours, theirs time.Duration
	var ourCalls, theirCalls, rounds int
	var ourBytes, theirBytes uint64
	timed := func(d *time.Duration, calls *int, bytes *uint64, f func() (int, error)) {
		b.Helper()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		sim.ResetCalls()
		start := time.Now()
		n, err := f()
		*d += time.Since(start)
		runtime.ReadMemStats(&after)
		*bytes += after.TotalAlloc - before.TotalAlloc
		if err != nil || n != manyVMs {
			b.Fatalf("%d machines, %v", n, err)
		}
		for _, k := range sim.Calls() {
			*calls += k
		}
	}
	for b.Loop() {
		rounds++
		run := []func(){
			func() {
				timed(&ours, &ourCalls, &ourBytes, func() (int, error) { return listAll(ctx, c) })
			},
			func() {
				timed(&theirs, &theirCalls, &theirBytes, func() (int, error) { l, err := nativeList(ctx, g.Client, v); return len(l), err })
			},
		}
		if rounds%2 == 0 {
			run[0], run[1] = run[1], run[0]
		}
		run[0]()
		run[1]()
	}
	if ourCalls != theirCalls {
		b.Errorf("%d calls, the hand-written program %d", ourCalls/rounds, theirCalls/rounds)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "×native")
	b.ReportMetric(float64(ourCalls)/float64(rounds), "calls")
	b.ReportMetric(float64(ourBytes)/float64(rounds*manyVMs), "B/machine(both-sides)")
	b.ReportMetric(float64(manyVMs*rounds)/ours.Seconds(), "machines/s")
}

// BenchmarkFinder compares with the way of most examples, a finder and one
// read for each machine, at 20 ms of round-trip time. It reads few machines
// that way and scales up, because all of them would take minutes.
func BenchmarkFinder(b *testing.B) {
	const sample = 100
	sim, c, g, _ := benchSim(b)
	ctx := b.Context()
	if _, err := listAll(ctx, c); err != nil {
		b.Fatal(err)
	}
	f := find.NewFinder(g.Client, true)
	dc, err := f.DefaultDatacenter(ctx)
	if err != nil {
		b.Fatal(err)
	}
	f.SetDatacenter(dc)
	sim.SetRoundTrip(20 * time.Millisecond)
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := listAll(ctx, c); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		start = time.Now()
		list, err := f.VirtualMachineList(ctx, "vm*")
		if err != nil {
			b.Fatal(err)
		}
		found := time.Since(start)
		start = time.Now()
		for _, vm := range list[:sample] {
			var m mo.VirtualMachine
			if err := object.NewVirtualMachine(g.Client, vm.Reference()).Properties(ctx, vm.Reference(), []string{"name", "runtime", "summary"}, &m); err != nil {
				b.Fatal(err)
			}
		}
		theirs += found + time.Since(start)*time.Duration(len(list)/sample)
	}
	b.ReportMetric(float64(theirs)/float64(ours), "×faster")
}
