package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// reads are the commands and operations that change nothing with or without
// --dry-run.
var reads = []string{"caps", "hosts", "vms", "templates", "stores", "networks", "devices", "watch", "info", "place", "balance", "replication", "connections",
	"completion", "snapshot list", "volume list", "volume needs", "guest info", "guest clock", "task wait"}

// harmless are the operations that a dry run may perform.
var harmless = []op.Name{op.ClientSupports, op.ClientPlace, op.VMList, op.VMFind, op.VMInfo, op.VMCheckMigrate, op.SnapshotList, op.SnapshotFind, op.SnapshotInfo,
	op.TemplateList, op.TemplateFind, op.TemplateInfo, op.HostList, op.HostFind, op.HostInfo, op.DeviceList, op.DatastoreList, op.NetworkList, op.VolumeList, op.TaskFind}

// verbs returns every command of hv, with each of its operations: "power off".
func verbs(k *kong.Kong) (out []string) {
	for _, n := range k.Model.Leaves(true) {
		i := slices.IndexFunc(n.Positional, func(p *kong.Positional) bool { return p.Name == "op" })
		if i < 0 {
			out = append(out, n.Name)
			continue
		}
		for _, o := range n.Positional[i].EnumSlice() {
			out = append(out, n.Name+" "+o)
		}
	}
	return out
}

// TestDryRun: with --dry-run each verb says what it would do, refuses names and
// IDs that are not there, changes nothing and asks for no change. The test fails
// when a verb is missing from it.
func TestDryRun(t *testing.T) {
	hv := hvOn(t, "fake://hv-dry")
	for _, line := range []string{"create web-01 --disk 64 --network default --start", "snapshot create web-01 before", "create gpu-01", "create gold --disk 64", "template mark gold", "volume create spare --store shared --size 64"} {
		if _, err := hv(line); err != nil {
			t.Fatal(line, err)
		}
	}
	c, err := hypervisor.Open(t.Context(), "fake://hv-dry", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := hypervisor.As[*fake.Backend](t.Context(), c, c)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.FindVM(t.Context(), "web-01")
	if err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	devices, err := hypervisor.Collect(c.Devices(t.Context(), &hypervisor.DeviceFilter{Assignable: true}))
	if err != nil || len(devices) < 2 {
		t.Fatal(err)
	}
	gpu, err := c.FindVM(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	attached, err := gpu.AttachDevice(t.Context(), hypervisor.DeviceRequest{ID: devices[0].ID}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("DISK", string(info.Disks[0].ID), "NIC", string(info.NICs[0].ID), "DEVICE", string(devices[1].ID), "ATTACHED", string(attached.ID), "VM", "id:"+string(info.ID))
	before, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, step := range []struct {
		verb, rest string
		want       string // in the output, or in the error after a !
	}{
		{"create", "web-02 --disk 64 --network default --store shared --host fakehost1", "vm.create: yes"},
		{"create", "web-02", "vm.create: yes"},
		{"create", "web-02 --network id:none", "!no network"},
		{"create", "web-02 --store id:none", "!no datastore"},
		{"create", "web-02 --host id:none", "!not found"},
		{"delete", "web-01", "vm.delete: yes"},
		{"delete", "id:none", "!no such machine"},
		{"power start", "web-01", "vm.start: yes"},
		{"power shutdown", "web-01", "power.shutdown: yes"},
		{"power reboot", "web-01", "power.shutdown: yes"},
		{"power off", "VM", "vm.start: yes"},
		{"power reset", "web-01", "power.reset: yes"},
		{"power pause", "web-01", "power.pause: yes"},
		{"power suspend", "web-01", "power.suspend: yes"},
		{"power resume", "web-01", "vm.start: yes"},
		{"set", "web-01 --cpus 2", "!MaxCPUs"},
		{"set", "gpu-01 --cpus 2 --memory 1024 -l a=b", "vm.labels: yes"},
		{"disk attach", "web-01 --size 64", "disk.hotplug: yes"},
		{"disk grow", "web-01 DISK --size 128", "disk.grow.live"},
		{"disk grow", "web-01 none --size 128", `!no disk with the ID "none"`},
		{"disk detach", "web-01 DISK", "disk.hotplug: yes"},
		{"nic attach", "web-01", "nic.hotplug: yes"},
		{"nic attach", "web-01 --network none", "!no network is named"},
		{"nic detach", "web-01 NIC", "nic.hotplug: yes"},
		{"nic detach", "web-01 none", "!no network adapter"},
		{"volume create", "more --store shared --size 64", "storage.volumes: yes"},
		{"volume delete", "spare", "storage.volumes: yes"},
		{"volume delete", "none", "!no disk image"},
		{"snapshot create", "web-01 after --memory --quiesce", "snapshot.quiesce: yes"},
		{"snapshot revert", "web-01 before", "snapshot.disk: yes"},
		{"snapshot delete", "web-01 before", "snapshot.disk: yes"},
		{"snapshot delete", "web-01 id:none", "!not found"},
		{"clone", "web-01 web-02", "clone.running: yes"},
		{"clone", "web-01 web-02 --from before --mode linked", "clone.linked: yes"},
		{"clone", "gold web-02 --template", "clone.full: yes"},
		{"template mark", "web-01", "template: yes"},
		{"template unmark", "gold", "template: yes"},
		{"template delete", "gold", "vm.delete: yes"},
		{"migrate", "web-01 --host fakehost2", "nothing stands"},
		{"migrate", "web-01 --host fakehost1", "!blocked"},
		{"migrate", "gpu-01 --host fakehost2", "!vm-has-passthrough"},
		{"evacuate", "fakehost1", "host-2"},
		{"maintenance enter", "fakehost1", "host.maintenance: yes"},
		{"maintenance exit", "fakehost1", "host.maintenance: yes"},
		{"ha", "web-01 --priority high", "ha: yes"},
		{"prepare", "DEVICE --vfs 2", "device.prepare"},
		{"prepare", "none", `!no host device with the ID "none"`},
		{"device attach", "web-01 --id none", "!no host device"},
		{"device attach", "web-01 --id DEVICE", "device.pci"},
		{"device detach", "web-01 --id none", "!no attached device"},
		{"device detach", "gpu-01 --id ATTACHED", "device.pci: yes"},
		{"guest sync", "web-01", "guest.clock: yes"},
		{"guest freeze", "web-01", "guest.freeze: yes"},
		{"guest thaw", "web-01", "guest.freeze: yes"},
		{"guest exec", "web-01 /bin/echo hello", "guest.exec: yes"},
		{"task cancel", "none", "!no"},
		{"tour", "", "!rehearsed"},
	} {
		b.ForgetCalls()
		seen[step.verb] = true
		line := "--dry-run " + step.verb + " " + names.Replace(step.rest)
		out, err := hv(line)
		if want, fails := strings.CutPrefix(step.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("hv %s: %v, want an error with %q", line, err, want)
			}
		} else if err != nil || !strings.Contains(out, step.want) {
			t.Errorf("hv %s: %v, printed %q, want %q in it", line, err, out, step.want)
		}
		for _, call := range b.Calls() {
			if !slices.Contains(harmless, call.Op) {
				t.Errorf("hv %s called %s", line, call.Op)
			}
		}
		after, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Fatalf("hv %s changed something", line)
		}
	}
	for _, v := range verbs(parser(new(cli))) {
		if !seen[v] && !slices.Contains(reads, v) {
			t.Errorf("hv %s is neither rehearsed here nor one of the commands that only read", v)
		}
	}
	if out, err := hv("--dry-run -o json delete web-01"); err != nil || !strings.Contains(out, `"notChecked"`) {
		t.Errorf("as JSON: %v, %s", err, out)
	}
}

// TestDryRunRefuses: a capability that is not there ends a dry run as it ends
// the command, with the same exit status.
func TestDryRunRefuses(t *testing.T) {
	hv := hvOn(t, "fake://hv-dry-free?edition=free")
	_, dry := hv("--dry-run maintenance enter fakehost1")
	_, real := hv("maintenance enter fakehost1")
	if exitCode(dry) != exitCodes[hypervisor.ErrLicense] || exitCode(dry) != exitCode(real) || !strings.Contains(dry.Error(), string(capability.HostMaintenance)) {
		t.Errorf("rehearsed %v, done %v", dry, real)
	}
}
