package hypervisortest

import (
	"errors"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// input: bad arguments are refused before anything is touched; odd but legal
// names are refused as a whole or carried exactly.
func input(e *env) {
	images := e.listImages()
	vm := e.create("ok")
	made := e.added(images)
	count := e.count()
	bad := []struct {
		what string
		f    func(*hypervisor.VMSpec)
	}{
		{"an empty name", func(s *hypervisor.VMSpec) { s.Name = "" }},
		{"a blank name", func(s *hypervisor.VMSpec) { s.Name = "  " }},
		{"a name of 256 characters", func(s *hypervisor.VMSpec) { s.Name = strings.Repeat("n", 256) }},
		{"a name of 10,000 characters", func(s *hypervisor.VMSpec) { s.Name = strings.Repeat("ü", 10000) }},
		{"a name with a line break", func(s *hypervisor.VMSpec) { s.Name = "a\nb" }},
		{"a name with a NUL", func(s *hypervisor.VMSpec) { s.Name = "a\x00b" }},
		{"a name that is no UTF-8", func(s *hypervisor.VMSpec) { s.Name = "a\xff" }},
		{"no memory", func(s *hypervisor.VMSpec) { s.MemoryBytes = 0 }},
		{"-5 MiB of memory", func(s *hypervisor.VMSpec) { s.MemoryBytes = -5 * hypervisor.MiB }},
		{"half a MiB too much", func(s *hypervisor.VMSpec) { s.MemoryBytes = 64*hypervisor.MiB + 512*hypervisor.KiB }},
		{"-1 CPUs", func(s *hypervisor.VMSpec) { s.CPUs = -1 }},
		{"MaxCPUs below CPUs", func(s *hypervisor.VMSpec) { s.CPUs, s.MaxCPUs = 4, 2 }},
		{"a disk of -1 bytes", func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{SizeBytes: -1}} }},
		{"a disk without size", func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{}} }},
		{"a disk from an image and a volume", func(s *hypervisor.VMSpec) {
			s.Disks = []hypervisor.DiskSpec{{Image: "a", Volume: "b"}}
		}},
		{"a multicast MAC", func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{MAC: "01:00:5e:00:00:01"}} }},
		{"a MAC that is none", func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{MAC: "hello"}} }},
		{"a range that leaves the memory out", func(s *hypervisor.VMSpec) {
			s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: 8 * hypervisor.MiB, MaxBytes: 16 * hypervisor.MiB}
			s.MemoryBytes = 32 * hypervisor.MiB
		}},
		{"secure boot with BIOS", func(s *hypervisor.VMSpec) { s.SecureBoot, s.Firmware = true, hypervisor.BIOS }},
		{"unknown firmware", func(s *hypervisor.VMSpec) { s.Firmware = "openfirmware" }},
		{"a label key with a blank", func(s *hypervisor.VMSpec) { s.Labels = map[string]string{"a b": "c"} }},
		{"a token with quotes", func(s *hypervisor.VMSpec) { s.Token = `"'` }},
	}
	for _, b := range bad {
		s := e.Spec(e.name("bad"))
		b.f(&s)
		_, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
		e.kind(err, hypervisor.ErrInvalidArgument, "CreateVM with %s", b.what)
	}
	// These only the platform can know.
	for what, f := range map[string]func(*hypervisor.VMSpec){
		"an unknown host":      func(s *hypervisor.VMSpec) { s.Placement.Host = "no-such-host" },
		"an unknown datastore": func(s *hypervisor.VMSpec) { s.Placement.Datastore = "no-such-datastore" },
		"an unknown network":   func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{Network: "no-such-network"}} },
		"an unknown image":     func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{Image: "no-such-image"}} },
		"1 EiB of memory":      func(s *hypervisor.VMSpec) { s.MemoryBytes = 1 << 60 },
		"100,000 CPUs":         func(s *hypervisor.VMSpec) { s.CPUs = 100000 },
	} {
		s := e.Spec(e.name("bad"))
		f(&s)
		vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
		if err == nil {
			e.keep(vm.ID())
		}
		e.oneOf(err, "CreateVM with "+what, hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted, hypervisor.ErrUnsupported)
	}
	if n := e.count(); n != count {
		e.Errorf("refused CreateVM calls changed the number of machines from %d to %d", count, n)
	}
	if a := e.added(append(images, made...)); len(a) > 0 {
		e.Errorf("refused CreateVM calls left the images %v", a)
	}

	wait := func(t interface {
		Wait(c ctxT) (hypervisor.None, error)
	}) error {
		_, err := t.Wait(e.ctx)
		return err
	}
	invalid := map[string]error{
		"Delete without a policy":        wait(vm.Delete(e.ctx, 0, nil)),
		"Reconfigure of nothing":         wait(vm.Reconfigure(e.ctx, hypervisor.Changes{})),
		"Reconfigure to -1 CPUs":         wait(vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: -1})),
		"Reconfigure to 1 byte":          wait(vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: 1})),
		"Shutdown with a negative limit": wait(vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: -time.Second})),
		"GrowDisk of no disk":            wait(vm.GrowDisk(e.ctx, "", hypervisor.GiB)),
		"GrowDisk to 0":                  wait(vm.GrowDisk(e.ctx, "x", 0)),
		"DetachDisk without a policy":    wait(vm.DetachDisk(e.ctx, "x", 0)),
		"Start of an empty ID":           wait(e.c.VM("").Start(e.ctx)),
		"Revert to an empty ID":          wait(vm.Snapshot("").Revert(e.ctx, nil)),
	}
	_, err := vm.CreateSnapshot(e.ctx, "", nil).Wait(e.ctx)
	invalid["CreateSnapshot without a name"] = err
	_, err = vm.CreateSnapshot(e.ctx, "s", &hypervisor.SnapshotOptions{Memory: true, Quiesce: true}).Wait(e.ctx)
	invalid["CreateSnapshot with Memory and Quiesce"] = err
	_, err = vm.Clone(e.ctx, "c", &hypervisor.CloneOptions{Mode: 77}).Wait(e.ctx)
	invalid["Clone in mode 77"] = err
	_, err = vm.Clone(e.ctx, strings.Repeat("c", 256), nil).Wait(e.ctx)
	invalid["Clone to a name of 256 characters"] = err
	_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{}).Wait(e.ctx)
	invalid["Migrate to nowhere"] = err
	_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: "h", Mode: hypervisor.Cold, PostCopy: true}).Wait(e.ctx)
	invalid["cold Migrate with PostCopy"] = err
	_, err = vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{}).Wait(e.ctx)
	invalid["AttachDevice of anything"] = err
	_, err = vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{Vendor: "nvidia"}).Wait(e.ctx)
	invalid["AttachDevice of vendor nvidia"] = err
	_, err = vm.Exec(e.ctx, hypervisor.ExecRequest{})
	invalid["Exec of nothing"] = err
	invalid["SetLabels with a bad key"] = vm.SetLabels(e.ctx, map[string]string{"": "x"})
	for _, what := range keys(invalid) {
		e.kind(invalid[what], hypervisor.ErrInvalidArgument, "%s", what)
	}
	e.state(vm, hypervisor.Off, "refused calls")

	for _, name := range []string{
		`quotes ' " and ` + "`", "<&> ]]> &amp;", "slash/and\\back", "per%cent %2f %00", "ünï ☃ 日本", "dots..and - dash", "$(id) ; | *?",
		"UPPER lower", strings.Repeat("n", 255),
	} {
		name = name[:min(len(name), 255)]
		s := e.Spec(name)
		v, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
		if err != nil {
			e.oneOf(err, "CreateVM named "+name, hypervisor.ErrInvalidArgument, hypervisor.ErrUnsupported)
			continue
		}
		e.keep(v.ID())
		if got := e.info(v).Name; got != name {
			e.Errorf("the name %q came back as %q", name, got)
		}
		f, err := e.c.FindVM(e.ctx, name)
		if err != nil || f.ID() != v.ID() {
			e.Errorf("FindVM(%q): %v, want %s", name, err, v.ID())
		}
		snap, err := v.CreateSnapshot(e.ctx, name, nil).Wait(e.ctx)
		switch {
		case err == nil:
			if i, err := snap.Info(e.ctx); err != nil || i.Name != name {
				e.Errorf("the snapshot name %q came back as %q (%v)", name, i.Name, err)
			}
		case !errors.Is(err, hypervisor.ErrInvalidArgument) && !errors.Is(err, hypervisor.ErrUnsupported):
			e.Errorf("CreateSnapshot(%q): %v", name, err)
		}
		_, err = v.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of %q", name)
	}
}

func (e *env) count() int {
	e.Helper()
	all, err := hypervisor.Collect(e.c.VMs(e.ctx, &hypervisor.ListOptions{Detail: hypervisor.Brief}))
	e.ok(err, "VMs")
	return len(all)
}
