package xen

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func (w *world) devices(ctx context.Context, t *testing.T, f *hypervisor.DeviceFilter) []hypervisor.DeviceInfo {
	t.Helper()
	return ok[[]hypervisor.DeviceInfo](t)(hypervisor.Collect(w.c.Devices(ctx, f)))
}

// TestDeviceReasons says of each device why it can't be given away.
func TestDeviceReasons(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: xapisim.TeslaT4}, {Model: xapisim.IntegratedGPU}}})
	want := map[string]hypervisor.ReasonCode{"8d02": hypervisor.ReasonHostUsesDevice, "193b": hypervisor.ReasonHostUsesDevice, "1521": "", "1eb8": ""}
	for _, d := range w.devices(ctx, t, nil) {
		if r, ok := want[d.Product]; !ok || d.Reason != r || d.Assignable != (r == "") {
			t.Errorf("%s (%s): %q %s", d.Product, d.ProductName, d.Reason, d.Detail)
		}
	}
	var igpu hypervisor.DeviceInfo
	for _, d := range w.devices(ctx, t, &hypervisor.DeviceFilter{Product: "193b"}) {
		igpu = d
	}
	if igpu.Class != hypervisor.ClassDisplay || igpu.Vendor != "8086" || igpu.Address != "0000:00:02.0" {
		t.Errorf("%+v", igpu)
	}
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{ID: igpu.ID})); hypervisor.KindOf(err) != hypervisor.ErrUnsupported {
		t.Errorf("AttachDevice of the host's console: %v", err)
	}
	// Taken from the host, it can be given away from the next boot on.
	for _, give := range []bool{true, false} {
		task := w.c.PrepareDevice(ctx, igpu.ID, hypervisor.DevicePreparation{Passthrough: &give})
		if err := wait(ctx, task); err != nil || !strings.Contains(strings.Join(task.Notes(), " "), "restart the host") {
			t.Errorf("PrepareDevice: %v, notes %q", err, task.Notes())
		}
		if d := w.devices(ctx, t, &hypervisor.DeviceFilter{ID: igpu.ID})[0]; d.Assignable {
			t.Errorf("before the restart: %+v", d)
		}
		h := w.sim.Refs("host")[0]
		if err := wait(ctx, w.run.PowerOff(ctx)); err != nil {
			t.Fatal(err)
		}
		w.rpc(ctx, t, nil, "host.disable", h)
		w.rpc(ctx, t, nil, "host.reboot", h)
		w.rpc(ctx, t, nil, "host.enable", h)
		if d := w.devices(ctx, t, &hypervisor.DeviceFilter{ID: igpu.ID})[0]; d.Assignable != give {
			t.Errorf("after the restart: %+v", d)
		}
	}
	for _, d := range newWorld(t, xapisim.Config{NoIOMMU: true}).devices(ctx, t, nil) {
		if d.Assignable || d.Reason != hypervisor.ReasonHostIOMMUOff {
			t.Errorf("without an IOMMU: %+v", d)
		}
	}
}

// TestWholeGPU gives GPUs one to one: as many machines as there are GPUs.
func TestWholeGPU(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: xapisim.TeslaT4}, {Model: xapisim.TeslaT4}}})
	r := hypervisor.DeviceRequest{Vendor: "10de", Product: "1eb8"}
	var used []hypervisor.DeviceID
	for range 2 {
		vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "gpu", MemoryBytes: hypervisor.GiB}).Wait(ctx))
		a := ok[hypervisor.AttachedDevice](t)(vm.AttachDevice(ctx, r).Wait(ctx))
		if a.Profile != "" || a.Device != "" {
			t.Errorf("before the start: %+v", a)
		}
		if err := wait(ctx, vm.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		if len(i.Devices) != 1 || i.Devices[0].Device == "" || slices.Contains(used, i.Devices[0].Device) || i.Devices[0].Product != "1eb8" {
			t.Fatalf("running: %+v", i.Devices)
		}
		used = append(used, i.Devices[0].Device)
		d := w.devices(ctx, t, &hypervisor.DeviceFilter{ID: i.Devices[0].Device})[0]
		if d.Assignable || d.Reason != hypervisor.ReasonDeviceInUse || len(d.UsedBy) != 1 || d.UsedBy[0].ID != string(vm.ID()) {
			t.Errorf("in use: %+v", d)
		}
		// A device is given and taken only while the machine is off, and by its owner.
		for what, err := range map[string]error{"DetachDevice": wait(ctx, vm.DetachDevice(ctx, a.ID)), "AttachDevice": wait(ctx, vm.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork}))} {
			if hypervisor.KindOf(err) != hypervisor.ErrUnsupported {
				t.Errorf("%s while it runs: %v", what, err)
			}
		}
		if err := wait(ctx, w.off.DetachDevice(ctx, a.ID)); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
			t.Errorf("another machine's device: %v", err)
		}
	}
	if err := wait(ctx, w.off.AttachDevice(ctx, r)); hypervisor.KindOf(err) != hypervisor.ErrExhausted {
		t.Errorf("a third machine: %v", err)
	}
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{ID: used[0]})); hypervisor.KindOf(err) != hypervisor.ErrBusy {
		t.Errorf("one that is in use, by ID: %v", err)
	}
}

// TestGPUByLicence gives all but GPUs where the edition has none.
func TestGPUByLicence(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1, Restrictions: []string{"gpu", "vgpu"}, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}})
	if s := ok[hypervisor.Support](t)(w.c.Supports(ctx, capability.DevicePCI, hypervisor.Ref{})); s.Level != hypervisor.LevelPartial || s.Reason != hypervisor.ReasonEdition {
		t.Errorf("%+v", s)
	}
	for _, r := range []hypervisor.DeviceRequest{{Class: hypervisor.ClassDisplay}, {Profile: "GRID M60-2Q"}} {
		if err := wait(ctx, w.off.AttachDevice(ctx, r)); reasonOf(err) != hypervisor.ReasonEdition || hypervisor.KindOf(err) != hypervisor.ErrLicense {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork})); err != nil {
		t.Error(err)
	}
}

// TestProfiles counts what is left of a GPU, whose vGPUs must be of one type.
func TestProfiles(t *testing.T) {
	for _, c := range []struct{ model, profile, other string }{
		{xapisim.TeslaM60, "GRID M60-2Q", "GRID M60-1Q"}, {xapisim.H100, "NVIDIA H100-20C", "NVIDIA H100-40C"}, {xapisim.S7150, "MxGPU Quarter GPU", ""},
	} {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: c.model}}})
		if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: c.profile})); err != nil {
			t.Fatalf("%s: %v", c.profile, err)
		}
		if err := wait(ctx, w.off.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		a := ok[hypervisor.VMInfo](t)(w.off.Info(ctx)).Devices[0]
		d := w.devices(ctx, t, &hypervisor.DeviceFilter{ID: a.Device})[0]
		if d.Kind != hypervisor.DeviceKindVGPU || !d.Assignable || a.Profile == "" || a.Address != d.Address {
			t.Errorf("%+v on %+v", a, d)
		}
		left := map[string]int{}
		for _, p := range d.Profiles {
			left[p.Name] = p.Available
			if p.Name == c.profile && (p.Max-p.Available != 1 || p.ID != a.Profile || p.Bytes == 0) {
				t.Errorf("%+v", p)
			}
		}
		if left[c.profile] != 3 || left[c.other] != 0 {
			t.Errorf("%s: left are %v", c.profile, left)
		}
	}
}

// TestDependentFunctions gives functions that depend on each other together,
// and takes one of several away.
func TestDependentFunctions(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1, Networks: 3})
	var cards []string
	for _, r := range w.sim.Refs("PCI") {
		if w.text(t, "PCI", r, "class_id") == "0200" {
			cards = append(cards, r)
		}
	}
	if err := w.sim.SetField("PCI", cards[0], "dependencies", []any{cards[1]}); err != nil {
		t.Fatal(err)
	}
	id := hypervisor.DeviceID(w.text(t, "PCI", cards[0], "uuid"))
	task := w.off.AttachDevice(ctx, hypervisor.DeviceRequest{ID: id})
	if err := wait(ctx, task); err != nil || !strings.Contains(strings.Join(task.Notes(), " "), "0000:03:00.1 is attached too") {
		t.Fatalf("%v, notes %q", err, task.Notes())
	}
	a := ok[hypervisor.AttachedDevice](t)(w.off.AttachDevice(ctx, hypervisor.DeviceRequest{ID: hypervisor.DeviceID(w.text(t, "PCI", cards[2], "uuid"))}).Wait(ctx))
	pci := func() string {
		v, _ := w.field(t, "VM", string(w.off.ID()), "other_config").(map[string]any)[pciKey].(string)
		return v
	}
	if got := pci(); got != "0/0000:03:00.0,0/0000:03:00.1,0/0000:03:00.2" {
		t.Errorf("other_config:pci is %q", got)
	}
	if err := wait(ctx, w.off.DetachDevice(ctx, a.ID)); err != nil {
		t.Fatal(err)
	}
	if got := pci(); got != "0/0000:03:00.0,0/0000:03:00.1" {
		t.Errorf("other_config:pci is %q", got)
	}
	if err := wait(ctx, w.off.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	for _, d := range w.devices(ctx, t, &hypervisor.DeviceFilter{Class: hypervisor.ClassNetwork}) {
		if used := len(d.UsedBy) == 1 && d.UsedBy[0].ID == string(w.off.ID()); used != (d.Address != "0000:03:00.2") {
			t.Errorf("%s is used by %v", d.Address, d.UsedBy)
		}
	}
	for _, k := range []capability.Name{capability.SnapshotMemory, capability.PowerSuspend, capability.MigrateLive} {
		if s := ok[hypervisor.Support](t)(w.off.Supports(ctx, k)); k != capability.MigrateLive && s.Reason != hypervisor.ReasonVMPassthrough {
			t.Errorf("%s: %+v", k, s)
		}
	}
}

// TestMovableVGPU moves a machine with a vGPU of an SR-IOV card whose driver
// can carry its state, and not one whose driver can't.
func TestMovableVGPU(t *testing.T) {
	for _, can := range []bool{true, false} {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: xapisim.H100, Migratable: can}}})
		if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "NVIDIA H100-20C"})); err != nil {
			t.Fatal(err)
		}
		if err := wait(ctx, w.off.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		i := ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
		hosts := w.hosts(ctx)
		to := hosts[slices.IndexFunc(hosts, func(h hypervisor.HostInfo) bool { return h.ID != i.Host })].ID
		s := ok[hypervisor.Support](t)(w.off.Supports(ctx, capability.MigrateLive))
		err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: to}))
		if can && (err != nil || s.Level != hypervisor.LevelYes) || !can && (!blockedBy(err, hypervisor.ReasonVMPassthrough) || s.Reason != hypervisor.ReasonVMPassthrough) {
			t.Errorf("the driver can: %v; Supports: %+v; Migrate: %v", can, s, err)
		}
	}
}

// TestDevicesByName: a xapi before 25.10 reports names of devices, not their IDs.
func TestDevicesByName(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1, Build: "24.11.0", GPUs: []xapisim.GPU{{Model: xapisim.TeslaT4}}})
	for _, d := range w.devices(ctx, t, nil) {
		if d.Product != "" {
			t.Errorf("%s has the product %q", d.ProductName, d.Product)
		}
		storage := d.Class == hypervisor.ClassStorage
		if d.Assignable == storage || storage && d.Reason != hypervisor.ReasonHostUsesDevice || !storage && !strings.Contains(d.Detail, "25.10") {
			t.Errorf("%s: class %q, assignable %v (%s), %s", d.ProductName, d.Class, d.Assignable, d.Reason, d.Detail)
		}
	}
	for _, f := range []hypervisor.DeviceFilter{{Class: hypervisor.ClassNetwork}, {Class: hypervisor.ClassDisplay}, {Class: hypervisor.ClassStorage}, {Vendor: "10de"}, {Vendor: "8086"}} {
		if len(w.devices(ctx, t, &f)) == 0 {
			t.Errorf("nothing matches %+v", f)
		}
	}
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassStorage})); hypervisor.KindOf(err) != hypervisor.ErrUnsupported {
		t.Errorf("the host's storage controller was given away: %v", err)
	}
	a := ok[hypervisor.AttachedDevice](t)(w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de"}).Wait(ctx))
	if err := wait(ctx, w.off.DetachDevice(ctx, a.ID)); err != nil {
		t.Error(err)
	}
	// What a name does not show is not given away.
	pci := w.sim.Refs("PCI")[0]
	for name, assignable := range map[string]bool{"PCI bridge": false, "Host bridge": false, "RAID bus controller": false, "Non-Volatile memory controller": false, "Unassigned class [ff00]": false, "": false, "USB controller": true} {
		if err := w.sim.SetField("PCI", pci, "class_name", name); err != nil {
			t.Fatal(err)
		}
		d := w.devices(ctx, t, &hypervisor.DeviceFilter{ID: hypervisor.DeviceID(w.text(t, "PCI", pci, "uuid"))})[0]
		if d.Assignable != assignable || !assignable && d.Detail == "" {
			t.Errorf("a %q: assignable %v, %q", name, d.Assignable, d.Detail)
		}
	}
}

// TestPrepareOnOldServer: before 24.14 only GPUs can be taken from the host.
func TestPrepareOnOldServer(t *testing.T) {
	ctx := settled(t)
	give := true
	for _, c := range []struct {
		gpus []xapisim.GPU
		want hypervisor.Level
	}{{nil, hypervisor.LevelNo}, {[]xapisim.GPU{{Model: xapisim.TeslaT4}}, hypervisor.LevelPartial}} {
		w := newWorld(t, xapisim.Config{Hosts: 1, Build: "24.11.0", GPUs: c.gpus})
		s := ok[hypervisor.Support](t)(w.c.Supports(ctx, capability.DevicePrepare, hypervisor.Ref{}))
		if s.Level != c.want || s.Reason != hypervisor.ReasonAPIVersion || !strings.Contains(s.Detail, "24.14") {
			t.Errorf("with %v: %+v", c.gpus, s)
		}
		for _, d := range w.devices(ctx, t, nil) {
			if !d.Assignable {
				continue
			}
			err := wait(ctx, w.c.PrepareDevice(ctx, d.ID, hypervisor.DevicePreparation{Passthrough: &give}))
			gpu := d.Class == hypervisor.ClassDisplay
			if gpu && err != nil || !gpu && (hypervisor.KindOf(err) != hypervisor.ErrUnsupported || reasonOf(err) != hypervisor.ReasonAPIVersion) {
				t.Errorf("%s: %v", d.ProductName, err)
			}
		}
	}
}
