package hypervisortest

import (
	"errors"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// specRows: fields of VMSpec.
func specRows() []row {
	type spec = hypervisor.VMSpec
	type info = hypervisor.VMInfo
	const more = 384 * hypervisor.MiB
	var rows []row
	for _, f := range []struct {
		name string
		set  func(*spec)
		see  func(info) any
		want any
		need caps
	}{
		{"Name", func(s *spec) { s.Name = "av-a-name" }, func(i info) any { return i.Name }, "av-a-name", nil},
		{"Description", func(s *spec) { s.Description = "a <&> \"b\"" }, func(i info) any { return i.Description }, "a <&> \"b\"", nil},
		{"CPUs", func(s *spec) { s.CPUs = 3 }, func(i info) any { return i.CPUs }, 3, nil},
		{"MemoryBytes", func(s *spec) { s.MemoryBytes = more }, func(i info) any { return i.MemoryBytes }, more, nil},
		{"DynamicMemory.MinBytes", dynamic, func(i info) any { return i.DynamicMemory }, dynamicRange(), caps{capability.MemoryDynamic}},
		{"DynamicMemory.MaxBytes", dynamic, func(i info) any { return i.DynamicMemory }, dynamicRange(), caps{capability.MemoryDynamic}},
		{"SecureBoot", secure, func(i info) any { return i.SecureBoot }, true, nil},
		{"Boot.Kernel", kernel, func(i info) any { return i.Boot }, bootFiles(), caps{capability.BootDirect}},
		{"Boot.Initrd", kernel, func(i info) any { return i.Boot }, bootFiles(), caps{capability.BootDirect}},
		{"Boot.CommandLine", kernel, func(i info) any { return i.Boot }, bootFiles(), caps{capability.BootDirect}},
		{"Labels", func(s *spec) { s.Labels = map[string]string{"role": "x"} }, func(i info) any { return i.Labels }, map[string]string{"role": "x"}, caps{capability.Labels}},
		{"Start", func(s *spec) { s.Start = true }, func(i info) any { return i.State }, hypervisor.StateRunning, nil},
		{"Token", func(s *spec) { s.Token = "tok-" + s.Name }, func(i info) any { return strings.HasPrefix(i.Token, "tok-") }, true, nil},
	} {
		rows = append(rows, row{name: "VMSpec." + f.name, run: func(e *env) {
			vm, err := e.try(f.set)
			if e.honoured(err, f.need...) {
				e.same(f.see(e.info(vm)), f.want, "%s", f.name)
			}
		}})
		if f.name == "Start" {
			rows[len(rows)-1].proves = caps{capability.VMStart}
		}
	}
	create := func(e *env, p hypervisor.Placement) (hypervisor.VMInfo, error) {
		vm, err := e.try(func(s *spec) { s.Placement = e.with(s.Placement, p) })
		if err != nil {
			return hypervisor.VMInfo{}, err
		}
		return e.info(vm), nil
	}
	rows = append(rows, placementRows("VMSpec.Placement", create)...)
	rows = append(rows, limitRows("VMSpec", func(e *env, change func(*spec)) (*hypervisor.VM, error) {
		return e.try(func(s *spec) {
			s.CPUs, s.MemoryBytes = 2, limitBelow
			change(s)
		})
	})...)
	return append(rows,
		row{name: "VMSpec.Firmware", run: func(e *env) {
			plain, err := e.try(func(s *spec) { s.Firmware = "" })
			e.ok(err, "CreateVM")
			want := hypervisor.FirmwareUEFI
			if e.info(plain).Firmware == want {
				want = hypervisor.FirmwareBIOS
			}
			vm, err := e.try(func(s *spec) { firmware(s, want) })
			if e.honoured(err) {
				e.same(e.info(vm).Firmware, want, "Firmware")
			}
		}},
		row{name: "VMSpec.GuestOS", run: func(e *env) {
			seen := map[string]bool{}
			for _, os := range []string{"", "linux", "windows"} {
				vm, err := e.try(func(s *spec) { s.GuestOS = os })
				if !e.honoured(err) {
					return
				}
				seen[e.info(vm).GuestOS] = true
			}
			if len(seen) != 3 {
				e.Errorf("machines for no, Linux and Windows guests have the GuestOS %v", keys(seen))
			}
		}},
		row{name: "VMSpec.Machine", run: func(e *env) {
			vm, err := e.try(func(s *spec) { s.Machine = "no-such-machine" })
			if err != nil {
				e.oneOf(err, "CreateVM of a machine of a kind that is not there", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument, hypervisor.ErrUnsupported)
				return
			}
			e.same(e.info(vm).Machine, "no-such-machine", "Machine")
		}})
}

// firmware makes a machine start with a firmware, if its kind has one.
func firmware(s *hypervisor.VMSpec, f hypervisor.Firmware) {
	s.Firmware = f
	if s.Machine == "" {
		s.Boot = nil
	}
}

func secure(s *hypervisor.VMSpec) {
	firmware(s, hypervisor.FirmwareUEFI)
	s.SecureBoot = true
}

const limitBelow = 512 * hypervisor.MiB

// limitRows returns the rows of the limits for hot-plug. A platform that
// knows only whether hot-plug is possible reports higher limits.
func limitRows(prefix string, with func(*env, func(*hypervisor.VMSpec)) (*hypervisor.VM, error)) []row {
	var rows []row
	for _, f := range []struct {
		name string
		set  func(*hypervisor.VMSpec)
		see  func(hypervisor.VMInfo) int64
		want int64
		need capability.Name
	}{
		{"MaxCPUs", func(s *hypervisor.VMSpec) { s.MaxCPUs = 4 }, func(i hypervisor.VMInfo) int64 { return int64(i.MaxCPUs) }, 4, capability.CPUHotAdd},
		{"MaxMemoryBytes", func(s *hypervisor.VMSpec) { s.MaxMemoryBytes = hypervisor.GiB }, func(i hypervisor.VMInfo) int64 { return i.MaxMemoryBytes }, hypervisor.GiB, capability.MemoryHotAdd},
	} {
		rows = append(rows, row{name: prefix + "." + f.name, run: func(e *env) {
			vm, err := with(e, f.set)
			if !e.honoured(err, f.need) {
				return
			}
			plain, err := with(e, func(*hypervisor.VMSpec) {})
			e.ok(err, "the same without %s", f.name)
			got, without := f.see(e.info(vm)), f.see(e.info(plain))
			if got < f.want || got == without {
				e.Errorf("%s is %d, want %d at least; while it is not set it is %d", f.name, got, f.want, without)
			}
		}})
	}
	return rows
}

// with adds the fields that are set in p to a placement that the backend
// needs.
func (e *env) with(needed, p hypervisor.Placement) hypervisor.Placement {
	if p.Host != "" {
		needed.Host = p.Host
	}
	if p.Datastore != "" {
		needed.Datastore = p.Datastore
	}
	if p.Pool != "" {
		needed = hypervisor.Placement{Pool: p.Pool, Datastore: needed.Datastore}
	}
	if p.Folder != "" {
		needed.Folder = p.Folder
	}
	return needed
}

// placementRows returns the rows of a Placement that a call accepts. The
// machine must then be at each place, and an unknown place is refused.
func placementRows(prefix string, place func(*env, hypervisor.Placement) (hypervisor.VMInfo, error)) []row {
	type placement = hypervisor.Placement
	const absent = "no-such-place"
	var rows []row
	for _, f := range []struct {
		name  string
		of    func(string) placement
		see   func(placement) string
		known func(*env) []string
	}{
		{"Host", func(s string) placement { return placement{Host: hypervisor.HostID(s)} }, func(p placement) string { return string(p.Host) }, (*env).hosts},
		{"Datastore", func(s string) placement { return placement{Datastore: hypervisor.DatastoreID(s)} }, func(p placement) string { return string(p.Datastore) }, (*env).stores},
		{"Pool", func(s string) placement { return placement{Pool: hypervisor.PoolID(s)} }, func(p placement) string { return string(p.Pool) }, (*env).pools},
		{"Folder", func(s string) placement { return placement{Folder: s} }, func(p placement) string { return p.Folder }, func(e *env) []string {
			return slices.DeleteFunc([]string{e.Folder}, func(s string) bool { return s == "" })
		}},
	} {
		rows = append(rows, row{name: prefix + "." + f.name, run: func(e *env) {
			for _, want := range f.known(e) {
				i, err := place(e, f.of(want))
				if !e.honoured(err) {
					return
				}
				e.same(f.see(i.Placement), want, "%s", f.name)
			}
			i, err := place(e, f.of(absent))
			if err == nil && f.see(i.Placement) == absent {
				return // made on demand
			}
			if errors.Is(err, hypervisor.ErrUnsupported) {
				e.decline(err.Error())
				return
			}
			e.notThere(err, "a %s that is not there", f.name)
		}})
	}
	return rows
}

// hosts returns two hosts at most.
func (e *env) hosts() []string {
	var out []string
	for _, h := range e.hostIDs() {
		out = append(out, string(h))
	}
	return out[:min(len(out), 2)]
}

// stores returns the datastores that all hosts reach, two at most, or one.
func (e *env) stores() []string {
	var out []string
	for _, d := range e.datastores() {
		if len(d.Hosts) == len(e.hostIDs()) && d.Accessible && d.Type != "iso" && d.FreeBytes > hypervisor.GiB {
			out = append(out, string(d.ID))
		}
	}
	return out[:min(len(out), 2)]
}

func (e *env) datastores() []hypervisor.DatastoreInfo {
	e.Helper()
	all, err := hypervisor.Collect(e.c.Datastores(e.ctx))
	e.ok(err, "Datastores")
	return all
}

func (e *env) pools() []string {
	var out []string
	for h, err := range e.c.Hosts(e.ctx) {
		e.ok(err, "Hosts")
		if p := string(h.Pool); p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out[:min(len(out), 2)]
}

func dynamicRange() *hypervisor.MemoryRange {
	return &hypervisor.MemoryRange{MinBytes: 192 * hypervisor.MiB, MaxBytes: 512 * hypervisor.MiB}
}

func dynamic(s *hypervisor.VMSpec) {
	s.MemoryBytes, s.DynamicMemory = 512*hypervisor.MiB, dynamicRange()
}

func bootFiles() *hypervisor.DirectBoot {
	return &hypervisor.DirectBoot{Kernel: "/boot/vmlinuz", Initrd: "/boot/initrd.img", CommandLine: "console=ttyS0 quiet"}
}

func kernel(s *hypervisor.VMSpec) { s.Boot = bootFiles() }
