package vsphere

import (
	"errors"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestVersions does all verbs on older servers.
func TestVersions(t *testing.T) {
	for _, v := range []string{"6.5", "6.7", "7.0"} {
		t.Run(v, func(t *testing.T) {
			cfg := simConfig(vspheresim.VCenter)
			cfg.Version = v
			sim, c := once(t, cfg)
			everyVerb(t, sim, c)
		})
	}
}

// everyVerb does what a machine's life has.
func everyVerb(t *testing.T, sim *vspheresim.Sim, c *hypervisor.Client) {
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	none := func(k *hypervisor.Task[hypervisor.None]) error { _, err := k.Wait(ctx); return err }
	s := spec("machine")
	s.Token, s.Labels = "request", map[string]string{"a": "b"}
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	_, err = vm.Info(ctx)
	must("info", err)
	_, err = hypervisor.Collect(c.VMs(ctx, nil))
	must("list", err)
	_, err = hypervisor.Collect(c.Hosts(ctx))
	must("hosts", err)
	_, err = hypervisor.Collect(c.Datastores(ctx))
	must("datastores", err)
	_, err = hypervisor.Collect(c.Networks(ctx))
	must("networks", err)
	_, err = hypervisor.Collect(c.Devices(ctx, nil))
	must("devices", err)
	_, err = hypervisor.Collect(c.Volumes(ctx, ""))
	must("volumes", err)
	_, err = hypervisor.Collect(c.HA(ctx))
	must("HA", err)
	_, err = c.FindVM(ctx, "machine")
	must("find", err)
	must("labels", vm.SetLabels(ctx, map[string]string{"c": "d"}))
	text := "x"
	must("reconfigure", none(vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 2, Description: &text})))
	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
	must("attach", err)
	must("grow", none(vm.GrowDisk(ctx, disk.ID, 2*hypervisor.MiB)))
	must("detach", none(vm.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks)))
	nic, err := vm.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx)
	must("attach an adapter", err)
	must("detach an adapter", none(vm.DetachNIC(ctx, nic.ID)))
	must("start", none(vm.Start(ctx)))
	snap, err := vm.CreateSnapshot(ctx, "s", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	must("revert", none(snap.Revert(ctx, nil)))
	must("delete a snapshot", none(snap.Delete(ctx, nil)))
	_, err = vm.Dependencies(ctx)
	must("dependencies", err)
	for h, err := range c.Hosts(ctx) {
		i, ierr := vm.Info(ctx)
		if err != nil || ierr != nil {
			t.Fatal(err, ierr)
		}
		if h.ID != i.Host {
			_, err = vm.Migrate(ctx, hypervisor.MigrateOptions{Host: h.ID}).Wait(ctx)
			must("migrate", err)
			break
		}
	}
	sup, err := vm.Supports(ctx, capability.CloneInstant)
	must("supports", err)
	_, err = vm.Clone(ctx, "instant", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeInstant}).Wait(ctx)
	if (sup.Level == hypervisor.LevelYes) != (err == nil) || err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("instant clone: %v, and it is said to be supported: %v", err, sup.Level)
	}
	must("power off", none(vm.PowerOff(ctx)))
	_, err = vm.Clone(ctx, "full", &hypervisor.CloneOptions{Customize: &hypervisor.Customization{HostName: "full"}}).Wait(ctx)
	must("clone", err)
	linked, err := vm.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
	must("linked clone", err)
	tpl, err := linked.MarkTemplate(ctx).Wait(ctx)
	must("template", err)
	for _, mode := range []hypervisor.CloneMode{hypervisor.CloneModeFull, hypervisor.CloneModeLinked} {
		m, err := tpl.Deploy(ctx, "deployed", &hypervisor.CloneOptions{Mode: mode}).Wait(ctx)
		if must("deploy", err); err == nil {
			must("delete", none(m.Delete(ctx, hypervisor.DeleteDisks, nil)))
		}
	}
	dev, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}).Wait(ctx)
	must("attach a device", err)
	must("detach a device", none(vm.DetachDevice(ctx, dev.ID)))
}

// TestVersionTooOld: a server that is older than all that was tried is refused as it is opened, and says its version.
func TestVersionTooOld(t *testing.T) {
	sim := startSim(t, vspheresim.Config{Version: "6.0"})
	if _, err := openSim(t.Context(), sim.URL()); !errors.Is(err, hypervisor.ErrUnsupported) || !strings.Contains(err.Error(), "6.0.0") || !strings.Contains(err.Error(), "6.5") {
		t.Errorf("a server of version 6.0: %v", err)
	}
	g := govmomiOf(t, sim)
	if _, err := New(t.Context(), g, nil); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a client of a server of version 6.0: %v", err)
	}
}
