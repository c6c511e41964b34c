// Package govc compares what the driver for vSphere makes with what govc shows.
package govc

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vmware/govmomi/cli"
	_ "github.com/vmware/govmomi/cli/device"
	_ "github.com/vmware/govmomi/cli/object"
	_ "github.com/vmware/govmomi/cli/vm"
	_ "github.com/vmware/govmomi/cli/vm/snapshot"
	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/vsphere"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// govcEnv makes the test's program govc: that program's own module is not
// published with versions, and its commands are in govmomi's.
const govcEnv = "ANYVISOR_TEST_GOVC"

func TestMain(m *testing.M) {
	if os.Getenv(govcEnv) != "" {
		os.Exit(cli.Run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T) (*vspheresim.Sim, *hypervisor.Client) {
	t.Helper()
	sim, err := vspheresim.Start(vspheresim.Config{Model: vspheresim.VCenter, VMs: 2, Tools: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	at := url.URL{Scheme: "vsphere", Host: sim.URL().Host, User: sim.URL().User, RawQuery: "plainhttp=true"}
	c, err := hypervisor.Open(t.Context(), at.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return sim, c
}

// govc returns a function that runs one of govc's commands, in a process of
// its own.
func govc(t *testing.T, sim *vspheresim.Sim) func(args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	return func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Env = append(os.Environ(), "GOVC_URL="+sim.URL().String(), "GOVC_INSECURE=1", "GOVC_PERSIST_SESSION=false", "HOME="+home, govcEnv+"=1")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("govc %v: %v\n%s%s", args, err, out, stderr.String())
		}
		return string(out)
	}
}

// TestGovc compares what this driver makes with what govc shows of it, and the
// other way round.
func TestGovc(t *testing.T) {
	sim, c := start(t)
	run := govc(t, sim)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Made by the driver, shown by govc.
	s := hypervisor.VMSpec{Name: "web-01", Description: "made by the driver", CPUs: 2, MemoryBytes: 512 * hypervisor.MiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	must(err)
	_, err = vm.Start(ctx).Wait(ctx)
	must(err)
	one, err := vm.CreateSnapshot(ctx, "one", nil).Wait(ctx)
	must(err)
	_, err = vm.CreateSnapshot(ctx, "two", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
	must(err)
	_, err = one.Revert(ctx, nil).Wait(ctx)
	must(err)
	_, err = vm.CreateSnapshot(ctx, "three", nil).Wait(ctx)
	must(err)

	var info struct {
		VirtualMachines []struct {
			Self    struct{ Value string }
			Name    string
			Runtime struct{ PowerState string }
			Config  struct {
				Annotation string
				Hardware   struct {
					NumCPU   int
					MemoryMB int64
				}
			}
			Snapshot struct{ CurrentSnapshot struct{ Value string } }
		}
	}
	must(json.Unmarshal([]byte(run("vm.info", "-json", "web-01")), &info))
	i, err := vm.Info(ctx)
	must(err)
	if len(info.VirtualMachines) != 1 {
		t.Fatalf("vm.info shows %d machines", len(info.VirtualMachines))
	}
	g := info.VirtualMachines[0]
	if g.Self.Value != string(i.ID) || g.Name != i.Name || g.Config.Hardware.NumCPU != i.CPUs || g.Config.Hardware.MemoryMB*hypervisor.MiB != i.MemoryBytes ||
		g.Config.Annotation != i.Description || g.Runtime.PowerState != "poweredOff" || i.State != hypervisor.StateOff || g.Snapshot.CurrentSnapshot.Value != string(i.CurrentSnapshot) {
		t.Errorf("vm.info shows %+v, the driver %+v", g, i)
	}
	snaps, err := vm.Snapshots(ctx)
	must(err)
	var lines []string
	for _, x := range snaps {
		at := strings.Repeat("  ", x.Depth) + "[" + string(x.ID) + "]  "
		lines = append(lines, at+x.Name)
		if x.Current {
			lines = append(lines, at+".") // where the machine is now
		}
	}
	tree := func(name string) []string {
		var out []string
		for l := range strings.SplitSeq(strings.TrimRight(run("snapshot.tree", "-i", "-c", "-vm", name), "\n"), "\n") {
			out = append(out, strings.TrimRight(l, " "))
		}
		return out
	}
	if got := tree("web-01"); !slices.Equal(got, lines) {
		t.Errorf("snapshot.tree shows\n%s\nthe driver\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
	if ls := run("ls", "/DC0/vm"); !strings.Contains(ls, "/DC0/vm/web-01\n") {
		t.Errorf("ls doesn't show the machine:\n%s", ls)
	}
	var dev struct {
		Devices []struct {
			Key            int32
			Type, Name     string
			CapacityInKB   int64
			MacAddress     string
			ControllerKey  int32
			CapacityInByte int64 `json:"capacityInBytes"`
		}
	}
	must(json.Unmarshal([]byte(run("device.info", "-json", "-vm", "web-01")), &dev))
	disks, cards := 0, 0
	for _, x := range dev.Devices {
		for _, disk := range i.Disks {
			if string(disk.ID) == strconv.Itoa(int(x.Key)) && x.CapacityInByte == disk.SizeBytes {
				disks++
			}
		}
		for _, n := range i.NICs {
			if string(n.ID) == strconv.Itoa(int(x.Key)) && strings.EqualFold(n.MAC, x.MacAddress) {
				cards++
			}
		}
	}
	if disks != len(i.Disks) || cards != len(i.NICs) || disks == 0 || cards == 0 {
		t.Errorf("device.info agrees on %d of %d disks and %d of %d adapters: %+v", disks, len(i.Disks), cards, len(i.NICs), dev.Devices)
	}

	// Made by govc, shown by the driver.
	run("vm.create", "-on=false", "-c", "3", "-m", "384", "-disk", "96MB", "-net", "VM Network", "-pool", "DC0_C0/Resources", "-ds", "LocalDS_0", "db-01")
	run("snapshot.create", "-vm", "db-01", "-m=false", "before")
	run("vm.change", "-vm", "db-01", "-annotation", "made by govc")
	run("vm.power", "-on", "db-01")
	db, err := c.FindVM(ctx, "db-01")
	must(err)
	i, err = db.Info(ctx)
	must(err)
	if i.State != hypervisor.StateRunning || i.CPUs != 3 || i.MemoryBytes != 384*hypervisor.MiB || i.Description != "made by govc" || i.Snapshots != 1 ||
		len(i.Disks) != 1 || i.Disks[0].SizeBytes != 96*hypervisor.MiB || len(i.NICs) != 1 {
		t.Errorf("the driver shows govc's machine as %+v", i)
	}
	sn, err := db.FindSnapshot(ctx, "before")
	must(err)
	at := "[" + string(sn.ID()) + "]  "
	if got, want := tree("db-01"), []string{at + "before", at + "."}; !slices.Equal(got, want) {
		t.Errorf("snapshot.tree shows %q, want %q", got, want)
	}
	run("vm.power", "-off", "db-01")
	run("vm.markastemplate", "db-01")
	tpl, err := c.FindTemplate(ctx, "db-01")
	must(err)
	if tpl.ID() != hypervisor.TemplateID(db.ID()) {
		t.Errorf("the template is %s, the machine was %s", tpl.ID(), db.ID())
	}
}
