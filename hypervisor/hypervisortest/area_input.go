package hypervisortest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// input: bad arguments are refused before anything is touched. Odd but legal
// names are refused as a whole or kept exactly.
var input = area{"input", slices.Concat([]row{
	{name: "bad-specs", run: inputBadSpecs},
	{name: "unknown-parts", run: inputUnknownParts},
	{name: "bad-calls", run: inputBadCalls},
}, inputNames())}

type change = func(*hypervisor.VMSpec)

var badSpecs = map[string]change{
	"an empty name":                     func(s *hypervisor.VMSpec) { s.Name = "" },
	"a blank name":                      func(s *hypervisor.VMSpec) { s.Name = "  " },
	"a name of 256 characters":          func(s *hypervisor.VMSpec) { s.Name = strings.Repeat("n", 256) },
	"a name of 10,000 characters":       func(s *hypervisor.VMSpec) { s.Name = strings.Repeat("ü", 10000) },
	"a name with a line break":          func(s *hypervisor.VMSpec) { s.Name = "a\nb" },
	"a name with a NUL":                 func(s *hypervisor.VMSpec) { s.Name = "a\x00b" },
	"a name that is no UTF-8":           func(s *hypervisor.VMSpec) { s.Name = "a\xff" },
	"no memory":                         func(s *hypervisor.VMSpec) { s.MemoryBytes = 0 },
	"-5 MiB of memory":                  func(s *hypervisor.VMSpec) { s.MemoryBytes = -5 * hypervisor.MiB },
	"half a MiB too much":               func(s *hypervisor.VMSpec) { s.MemoryBytes = 64*hypervisor.MiB + 512*hypervisor.KiB },
	"-1 CPUs":                           func(s *hypervisor.VMSpec) { s.CPUs = -1 },
	"MaxCPUs below CPUs":                func(s *hypervisor.VMSpec) { s.CPUs, s.MaxCPUs = 4, 2 },
	"a disk of -1 bytes":                func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{SizeBytes: -1}} },
	"a disk without size":               func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{}} },
	"a disk from an image and a volume": func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{Image: "a", Volume: "b"}} },
	"a multicast MAC":                   func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{MAC: "01:00:5e:00:00:01"}} },
	"a MAC that is none":                func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{MAC: "hello"}} },
	"a range that leaves the memory out": func(s *hypervisor.VMSpec) {
		s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: 8 * hypervisor.MiB, MaxBytes: 16 * hypervisor.MiB}
		s.MemoryBytes = 32 * hypervisor.MiB
	},
	"secure boot with BIOS":    func(s *hypervisor.VMSpec) { s.SecureBoot, s.Firmware = true, hypervisor.FirmwareBIOS },
	"unknown firmware":         func(s *hypervisor.VMSpec) { s.Firmware = "openfirmware" },
	"a label key with a blank": func(s *hypervisor.VMSpec) { s.Labels = map[string]string{"a b": "c"} },
	"a token with quotes":      func(s *hypervisor.VMSpec) { s.Token = `"'` },
}

func inputBadSpecs(e *env) {
	inputRefused(e, badSpecs, func(what string, err error) {
		e.kind(err, hypervisor.ErrInvalidArgument, "CreateVM with %s", what)
	})
}

// Only the platform can know these.
func inputUnknownParts(e *env) {
	inputRefused(e, map[string]change{
		"an unknown host":      func(s *hypervisor.VMSpec) { s.Placement.Host = "no-such-host" },
		"an unknown datastore": func(s *hypervisor.VMSpec) { s.Placement.Datastore = "no-such-datastore" },
		"an unknown network":   func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{{Network: "no-such-network"}} },
		"an unknown image":     func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{Image: "no-such-image"}} },
		"1 EiB of memory":      func(s *hypervisor.VMSpec) { s.MemoryBytes = 1 << 60 },
		"100,000 CPUs":         func(s *hypervisor.VMSpec) { s.CPUs = 100000 },
	}, func(what string, err error) {
		e.oneOf(err, "CreateVM with "+what, hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted, hypervisor.ErrUnsupported)
	})
}

// inputRefused checks that CreateVM refuses each spec and leaves nothing.
func inputRefused(e *env, bad map[string]change, refused func(what string, err error)) {
	count := e.count()
	for _, what := range keys(bad) {
		s := e.Spec(e.name("bad"))
		bad[what](&s)
		vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
		if err == nil {
			e.keep(vm.ID())
		}
		refused(what, err)
	}
	if n := e.count(); n != count {
		e.Errorf("refused CreateVM calls changed the number of machines from %d to %d", count, n)
	}
	if a := e.added(e.images); len(a) > 0 {
		e.Errorf("refused CreateVM calls left the images %v", a)
	}
}

func inputBadCalls(e *env) {
	vm := e.create("ok")
	_, exec := vm.Exec(e.ctx, hypervisor.ExecRequest{})
	snapshot := func(name string, o *hypervisor.SnapshotOptions) error {
		return errOf(e, vm.CreateSnapshot(e.ctx, name, o))
	}
	clone := func(name string, o *hypervisor.CloneOptions) error { return errOf(e, vm.Clone(e.ctx, name, o)) }
	migrate := func(o hypervisor.MigrateOptions) error { return errOf(e, vm.Migrate(e.ctx, o)) }
	attach := func(r hypervisor.DeviceRequest) error { return errOf(e, vm.AttachDevice(e.ctx, r)) }
	invalid := map[string]error{
		"Delete without a policy":                errOf(e, vm.Delete(e.ctx, 0, nil)),
		"Reconfigure of nothing":                 errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{})),
		"Reconfigure to -1 CPUs":                 errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: -1})),
		"Reconfigure to 1 byte":                  errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: 1})),
		"Shutdown with a negative limit":         errOf(e, vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: -time.Second})),
		"GrowDisk of no disk":                    errOf(e, vm.GrowDisk(e.ctx, "", hypervisor.GiB)),
		"GrowDisk to 0":                          errOf(e, vm.GrowDisk(e.ctx, "x", 0)),
		"DetachDisk without a policy":            errOf(e, vm.DetachDisk(e.ctx, "x", 0)),
		"Start of an empty ID":                   errOf(e, e.c.VM("").Start(e.ctx)),
		"Revert to an empty ID":                  errOf(e, vm.Snapshot("").Revert(e.ctx, nil)),
		"CreateSnapshot without a name":          snapshot("", nil),
		"CreateSnapshot with Memory and Quiesce": snapshot("s", &hypervisor.SnapshotOptions{Memory: true, Quiesce: true}),
		"Clone in mode 77":                       clone("c", &hypervisor.CloneOptions{Mode: 77}),
		"Clone to a name of 256 characters":      clone(strings.Repeat("c", 256), nil),
		"Migrate to nowhere":                     migrate(hypervisor.MigrateOptions{}),
		"cold Migrate with PostCopy":             migrate(hypervisor.MigrateOptions{Host: "h", Mode: hypervisor.MigrateModeCold, PostCopy: true}),
		"AttachDevice of anything":               attach(hypervisor.DeviceRequest{}),
		"AttachDevice of vendor nvidia":          attach(hypervisor.DeviceRequest{Vendor: "nvidia"}),
		"Exec of nothing":                        exec,
		"SetLabels with a bad key":               vm.SetLabels(e.ctx, map[string]string{"": "x"}),
	}
	for _, what := range keys(invalid) {
		e.kind(invalid[what], hypervisor.ErrInvalidArgument, "%s", what)
	}
	e.state(vm, hypervisor.StateOff, "refused calls")
}

// inputNames returns a row for each odd name.
func inputNames() (out []row) {
	for _, n := range []struct{ row, name string }{
		{"quotes", `quotes ' " and ` + "`"}, {"markup", "<&> ]]> &amp;"}, {"slashes", "slash/and\\back"}, {"percent", "per%cent %2f %00"},
		{"unicode", "ünï ☃ 日本"}, {"dots", "dots..and - dash"}, {"shell", "$(id) ; | *?"}, {"upper", "UPPER lower"}, {"255", strings.Repeat("n", 255)},
	} {
		out = append(out, row{name: "name-" + n.row, run: func(e *env) { inputName(e, n.name) }})
	}
	return out
}

func inputName(e *env, name string) {
	v, err := e.c.CreateVM(e.ctx, e.Spec(name)).Wait(e.ctx)
	if err != nil {
		e.oneOf(err, "CreateVM named "+name, hypervisor.ErrInvalidArgument, hypervisor.ErrUnsupported)
		return
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
	must(e, v.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of %q", name)
}

func (e *env) count() int {
	e.Helper()
	all, err := hypervisor.Collect(e.c.VMs(e.ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
	e.ok(err, "VMs")
	return len(all)
}
