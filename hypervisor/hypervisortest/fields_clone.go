package hypervisortest

import (
	"net/netip"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// copies calls see with a clone of a machine made by change and, where there
// are templates, with a deployed one.
func (e *env) copies(o hypervisor.CloneOptions, change func(*hypervisor.VMSpec), see func(src, c *hypervisor.VM, err error)) {
	e.Helper()
	if change == nil {
		change = func(*hypervisor.VMSpec) {}
	}
	keep := func(c *hypervisor.VM, err error) (*hypervisor.VM, error) {
		if err == nil {
			e.keep(c.ID())
		}
		return c, err
	}
	src := e.create("src", change)
	e.write(src, "base")
	c, err := keep(src.Clone(e.ctx, e.name("clone"), &o).Wait(e.ctx))
	see(src, c, err)
	if !e.has(capability.Templates) || o.From != "" || o.Mode == hypervisor.CloneModeInstant {
		return
	}
	if o.Token != "" {
		o.Token += "-2"
	}
	golden := e.create("golden", change)
	e.write(golden, "base")
	t, err := golden.MarkTemplate(e.ctx).Wait(e.ctx)
	e.ok(err, "MarkTemplate")
	e.keep(hypervisor.VMID(t.ID()))
	c, err = keep(t.Deploy(e.ctx, e.name("deploy"), &o).Wait(e.ctx))
	see(golden, c, err)
}

// labelled gives the source a label that a copy with labels of its own must
// not have.
func labelled(e *env) func(*hypervisor.VMSpec) {
	if !e.has(capability.Labels) {
		return nil
	}
	return func(s *hypervisor.VMSpec) { s.Labels = map[string]string{"old": "x"} }
}

func cloneRows() []row {
	type options = hypervisor.CloneOptions
	type info = hypervisor.VMInfo
	full := caps{capability.CloneFull}
	var rows []row
	for _, f := range []struct {
		name string
		o    options
		see  func(info) any
		want any
		need caps
	}{
		{"Mode", options{Mode: hypervisor.CloneModeLinked}, func(i info) any { return i.Disks[0].Parent != "" }, true, caps{capability.CloneLinked}},
		{"Description", options{Description: "a copy"}, func(i info) any { return i.Description }, "a copy", nil},
		{"Start", options{Start: true}, func(i info) any { return i.State }, hypervisor.StateRunning, nil},
		{"Labels", options{Labels: map[string]string{"role": "copy"}}, func(i info) any { return i.Labels }, map[string]string{"role": "copy"}, caps{capability.Labels}},
		{"CPUs", options{CPUs: 3}, func(i info) any { return i.CPUs }, 3, nil},
		{"MemoryBytes", options{MemoryBytes: 768 * hypervisor.MiB}, func(i info) any { return i.MemoryBytes }, 768 * hypervisor.MiB, nil},
	} {
		rows = append(rows, row{name: "CloneOptions." + f.name, needs: full, run: func(e *env) {
			e.copies(f.o, labelled(e), func(_, c *hypervisor.VM, err error) {
				if e.honoured(err, f.need...) {
					e.same(f.see(e.info(c)), f.want, "%s", f.name)
				}
			})
		}})
	}
	rows = append(rows, row{name: "CloneOptions.Token", needs: full, run: func(e *env) {
		o := options{Token: "tok-" + e.name("c")}
		e.copies(o, nil, func(src, c *hypervisor.VM, err error) {
			if e.honoured(err) && e.info(c).Token == "" {
				e.Errorf("the copy %s carries no token", c.ID())
			}
		})
	}}, row{name: "CloneOptions.From", needs: caps{capability.CloneFull, capability.SnapshotDisk}, run: func(e *env) {
		src := e.create("src")
		e.write(src, "then")
		s, err := src.CreateSnapshot(e.ctx, "s", nil).Wait(e.ctx)
		e.ok(err, "CreateSnapshot")
		e.write(src, "now")
		c, err := src.Clone(e.ctx, e.name("clone"), &options{From: s.ID()}).Wait(e.ctx)
		if err == nil {
			e.keep(c.ID())
		}
		if !e.honoured(err, capability.CloneFromSnapshot) {
			return
		}
		e.content(c, "then", "Clone of a snapshot")
		_, err = src.Clone(e.ctx, e.name("clone"), &options{From: "no-such-snapshot"}).Wait(e.ctx)
		e.notThere(err, "Clone of a snapshot that is not there")
	}})
	clone := func(e *env, p hypervisor.Placement) (i info, err error) {
		e.copies(options{Placement: p}, nil, func(_, c *hypervisor.VM, cerr error) {
			if err == nil {
				err = cerr
			}
			if cerr == nil {
				i = e.info(c)
			}
		})
		return i, err
	}
	for _, r := range placementRows("CloneOptions.Placement", clone) {
		r.needs = full
		rows = append(rows, r)
	}
	return append(rows, customizeRows()...)
}

// customizeRows: the customization of a copy's guest.
func customizeRows() []row {
	type custom = hypervisor.Customization
	windows := hypervisor.WindowsCustomization{TimeZone: 110, Workgroup: "WORKERS", Owner: "An Owner", Organization: "An Organization"}
	linux := custom{HostName: "guest1.example.org", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")},
		Gateway: netip.MustParseAddr("192.0.2.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}}
	of := func(os string) custom {
		c := linux
		if os == "windows" {
			c.HostName = "GUEST1"
			c.Windows = &windows
		}
		return c
	}
	var rows []row
	for _, f := range []struct {
		name, os string
		see      func(custom) any
	}{
		{"HostName", "linux", func(c custom) any { return c.HostName }},
		{"Addresses", "linux", func(c custom) any { return c.Addresses }},
		{"Gateway", "linux", func(c custom) any { return c.Gateway }},
		{"DNS", "linux", func(c custom) any { return c.DNS }},
		{"Windows.TimeZone", "windows", func(c custom) any { return c.Windows.TimeZone }},
		{"Windows.Workgroup", "windows", func(c custom) any { return c.Windows.Workgroup }},
		{"Windows.Owner", "windows", func(c custom) any { return c.Windows.Owner }},
		{"Windows.Organization", "windows", func(c custom) any { return c.Windows.Organization }},
	} {
		rows = append(rows, row{name: "CloneOptions.Customize." + f.name, needs: caps{capability.CloneFull}, run: func(e *env) {
			want := of(f.os)
			e.copies(hypervisor.CloneOptions{Customize: &want, Start: true}, func(s *hypervisor.VMSpec) { s.GuestOS = f.os }, func(src, c *hypervisor.VM, err error) {
				if s, serr := src.Supports(e.ctx, capability.CloneCustomize); serr == nil && s.Level == hypervisor.LevelNo {
					e.refused(err, capability.CloneCustomize, src.Ref())
					e.declined = s.Detail
					return
				}
				if !e.honoured(err) {
					return
				}
				if e.Customized == nil {
					e.unshown("nothing here shows what a guest was told")
					return
				}
				told, err := e.Customized(e.ctx, c.ID())
				e.ok(err, "what the guest was told")
				if told.Windows == nil {
					told.Windows = &hypervisor.WindowsCustomization{}
				}
				e.same(f.see(told), f.see(want), "what the guest was told of %s", f.name)
			})
		}})
	}
	return rows
}

// placeMarked: fields of the Placement that Template.MarkVM takes.
func placeMarked() []row {
	back := func(e *env, p hypervisor.Placement) (hypervisor.VMInfo, error) {
		vm := e.create("golden", func(s *hypervisor.VMSpec) {
			if slices.Contains(e.stores(), string(p.Datastore)) { // MarkVM moves no disks
				s.Placement.Datastore = p.Datastore
			}
		})
		t, err := vm.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
		e.keep(hypervisor.VMID(t.ID()))
		vm, err = t.MarkVM(e.ctx, p).Wait(e.ctx)
		if err != nil {
			return hypervisor.VMInfo{}, err
		}
		if !slices.Contains(e.made, vm.ID()) {
			e.keep(vm.ID())
		}
		return e.info(vm), nil
	}
	rows := placementRows("Placement", back)
	for i := range rows {
		rows[i].needs = caps{capability.Templates}
	}
	return rows
}
