package hypervisortest

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// execRows: fields of ExecRequest. What a program does shows in its exit code,
// which every platform reports.
func execRows() []row {
	type request = hypervisor.ExecRequest
	exec := func(e *env, r request) (hypervisor.ExecResult, error) {
		e.Helper()
		r.User, r.Password = e.Login.Username, e.Login.Password
		return e.running().Exec(e.ctx, r)
	}
	code := func(name string, want int, r request) row {
		return row{name: "ExecRequest." + name, run: func(e *env) {
			x, err := exec(e, r)
			if e.honoured(err) {
				e.same(x.ExitCode, want, "the exit code")
			}
		}}
	}
	login := func(name string, wrong func(*request)) row {
		return row{name: "ExecRequest." + name, run: func(e *env) {
			vm := e.running()
			r := request{Path: "/bin/sh", Args: []string{"-c", "exit 0"}, User: e.Login.Username, Password: e.Login.Password}
			if r.User == "" { // the backend has no logins, so one must not be ignored
				if name == "User" {
					r.User = "somebody"
				} else {
					r.Password = "secret"
				}
				if _, err := vm.Exec(e.ctx, r); e.honoured(err) {
					e.Errorf("%s is ignored", name)
				}
				return
			}
			_, err := vm.Exec(e.ctx, r)
			e.ok(err, "Exec as %s", r.User)
			wrong(&r)
			_, err = vm.Exec(e.ctx, r)
			e.oneOf(err, "Exec with a wrong login", hypervisor.ErrUnauthenticated, hypervisor.ErrPermission, hypervisor.ErrInvalidArgument)
		}}
	}
	rows := []row{
		code("Path", 7, request{Path: "/bin/sh", Args: []string{"-c", "exit 7"}}),
		code("Args", 7, request{Path: "/bin/sh", Args: []string{"-c", "exit 7"}}),
		code("Env", 9, request{Path: "/bin/sh", Args: []string{"-c", "exit $AV"}, Env: []string{"AV=9"}}),
		code("Stdin", 5, request{Path: "/bin/sh", Args: []string{"-c", "read AV; exit $AV"}, Stdin: []byte("5\n")}),
		login("User", func(r *request) { r.User = "nobody-here" }),
		login("Password", func(r *request) { r.Password = "wrong" }),
		{name: "ExecRequest.Timeout", run: func(e *env) {
			vm := e.running()
			begin := time.Now()
			if e.Slow != nil {
				e.Slow(2 * time.Second)
			}
			_, err := vm.Exec(e.ctx, request{Path: "/bin/sh", Args: []string{"-c", "sleep 2"}, Timeout: 400 * time.Millisecond,
				User: e.Login.Username, Password: e.Login.Password})
			e.kind(err, hypervisor.ErrTimeout, "a program that sleeps for longer than Timeout")
			if took := time.Since(begin); took < 350*time.Millisecond || took > 1900*time.Millisecond {
				e.Errorf("the program had %v, want 400 ms", took)
			}
		}},
	}
	rows = append(rows, row{name: "ExecRequest.MaxOutput", run: func(e *env) {
		x, err := exec(e, request{Path: "/bin/sh", Args: []string{"-c", "echo out"}, MaxOutput: 2})
		if errors.Is(err, hypervisor.ErrUnsupported) {
			e.honoured(err)
		} else {
			e.kind(err, hypervisor.ErrExhausted, "a program that says more than MaxOutput")
			e.same(string(x.Stdout), "ou", "the output")
		}
	}})
	for i := range rows {
		rows[i].needs = caps{capability.GuestExec}
	}
	return rows
}

// placeRows: fields of PlaceRequest, BalanceOptions, EvacuateOptions and
// MaintenanceOptions.
func placeRows() []row {
	type request = hypervisor.PlaceRequest
	const mem = 256 * hypervisor.MiB
	var rows []row
	for _, f := range []struct {
		name string
		set  func(*env, *request)
		need caps
	}{
		{"VM", func(e *env, r *request) { *r = request{VM: e.AbsentVM} }, nil},
		{"CPUs", func(_ *env, r *request) { r.CPUs = 1 << 20 }, nil},
		{"MemoryBytes", func(_ *env, r *request) { r.MemoryBytes = 1 << 60 }, nil},
		{"Datastore", func(_ *env, r *request) { r.Datastore = "no-such-store" }, caps{capability.DatastoreList}},
		{"Device.ID", func(_ *env, r *request) { r.Device = &hypervisor.DeviceRequest{ID: "no-such-device"} }, caps{capability.DevicePCI}},
		{"Device.Vendor", func(e *env, r *request) {
			r.Device = &hypervisor.DeviceRequest{Vendor: "fffe", Product: e.sample().Product}
		}, caps{capability.DevicePCI}},
		{"Device.Product", func(e *env, r *request) {
			r.Device = &hypervisor.DeviceRequest{Vendor: e.sample().Vendor, Product: "fffe"}
		}, caps{capability.DevicePCI}},
		{"Device.Class", func(e *env, r *request) {
			r.Device = &hypervisor.DeviceRequest{Vendor: e.sample().Vendor, Class: "no-such-class"}
		}, caps{capability.DevicePCI}},
		{"Device.Profile", func(e *env, r *request) {
			r.Device = &hypervisor.DeviceRequest{Vendor: e.sample().Vendor, Profile: "no-such-profile"}
		}, caps{capability.DevicePCI}},
		{"Device.VirtualFunction", func(e *env, r *request) { // of a device that has none
			r.Device = &hypervisor.DeviceRequest{Vendor: e.sample().Vendor, Product: e.sample().Product, VirtualFunction: true}
		}, caps{capability.DevicePCI}},
	} {
		rows = append(rows, row{name: "PlaceRequest." + f.name, needs: f.need, run: func(e *env) {
			r := request{CPUs: 1, MemoryBytes: mem}
			_, err := e.c.Place(e.ctx, r)
			e.ok(err, "Place of a small machine")
			f.set(e, &r)
			_, err = e.c.Place(e.ctx, given(e, r))
			e.oneOf(err, "Place of what fits nowhere", hypervisor.ErrExhausted, hypervisor.ErrNotFound)
		}})
	}
	for _, f := range []struct {
		name string
		opt  hypervisor.BalanceOptions
		most int
	}{
		{"Spread", hypervisor.BalanceOptions{Spread: 0.95}, 0},
		{"MaxMoves", hypervisor.BalanceOptions{MaxMoves: 1}, 1},
	} {
		rows = append(rows, row{name: "BalanceOptions." + f.name, needs: caps{capability.MigrateLive}, run: func(e *env) {
			if !e.unbalance() {
				return
			}
			plan, err := e.c.PlanBalance(e.ctx, nil)
			e.ok(err, "PlanBalance")
			if len(plan) <= f.most {
				e.unshown("the plan for hosts that differ has %d moves", len(plan))
				return
			}
			opt := given(e, f.opt)
			plan, err = e.c.PlanBalance(e.ctx, &opt)
			e.ok(err, "PlanBalance with options")
			e.same(len(plan), f.most, "the number of moves with %+v", f.opt)
		}})
	}
	return append(rows,
		row{name: "EvacuateOptions.To", needs: caps{capability.MigrateLive}, run: func(e *env) {
			vm, _ := e.traveller(true)
			from := e.info(vm).Host
			opt := given(e, hypervisor.EvacuateOptions{To: []hypervisor.HostID{"no-such-host"}})
			_, err := e.c.Host(from).Evacuate(e.ctx, &opt).Wait(e.ctx)
			e.kind(err, hypervisor.ErrExhausted, "Evacuate to a host that is not there")
			e.same(e.info(vm).Host, from, "the machine's host")
		}},
		row{name: "EvacuateOptions.Parallel", needs: caps{capability.MigrateLive}, run: (*env).parallel},
		row{name: "MaintenanceOptions.Evacuate", needs: caps{capability.HostMaintenance}, run: func(e *env) {
			vm, to := e.traveller(true)
			from := e.info(vm).Host
			if to == from || !e.has(capability.MigrateLive) {
				e.unshown("no machine here can leave its host")
				return
			}
			h := e.c.Host(from)
			_, err := h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(e.ctx)
			if e.honoured(err) {
				_, err = h.ExitMaintenance(e.ctx).Wait(e.ctx)
				e.ok(err, "ExitMaintenance")
			}
		}})
}

// unbalance makes machines run on one host that take most of its memory.
func (e *env) unbalance() bool {
	e.Helper()
	hosts := e.hostIDs()
	if len(hosts) < 2 || e.site.s.h.Rung == Real {
		e.unshown("there are no two hosts whose memory could be filled")
		return false
	}
	i, err := e.c.Host(hosts[0]).Info(e.ctx)
	e.ok(err, "Info of the host")
	part := i.MemoryBytes / 8 / (4 * hypervisor.MiB) * (4 * hypervisor.MiB)
	for range 4 {
		e.create("big", func(s *hypervisor.VMSpec) {
			s.MemoryBytes, s.Start = part, true
			s.Placement = e.with(s.Placement, hypervisor.Placement{Host: hosts[0]})
		})
	}
	return true
}

// parallel: with Parallel 1 no migration begins before the previous one ends.
func (e *env) parallel() {
	if e.Open == nil || e.Slow == nil {
		e.unshown("migrations can't be watched here")
		return
	}
	vm, _ := e.traveller(true)
	from := e.info(vm).Host
	for range 2 {
		e.start(e.create("more", func(s *hypervisor.VMSpec) {
			s.Placement = e.with(s.Placement, hypervisor.Placement{Host: from})
		}))
	}
	var mu sync.Mutex
	now, most := 0, 0
	c, err := e.Open(e.ctx, &hypervisor.Options{Observer: func(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		if c.Name != op.VMMigrate {
			return ctx, func(hypervisor.CallEnd) {}
		}
		mu.Lock()
		defer mu.Unlock()
		now++
		most = max(most, now)
		return ctx, func(hypervisor.CallEnd) {
			mu.Lock()
			defer mu.Unlock()
			now--
		}
	}})
	e.ok(err, "Open")
	defer func() { e.ok(c.Close(), "Close") }()
	e.Slow(200 * time.Millisecond)
	opt := given(e, hypervisor.EvacuateOptions{Parallel: 1})
	_, err = c.Host(from).Evacuate(e.ctx, &opt).Wait(e.ctx)
	e.ok(err, "Evacuate")
	e.same(most, 1, "the number of migrations at a time")
}

// clientRows: fields of ListOptions, Options and of the Placement of MarkVM.
func clientRows() []row {
	list := func(e *env, o hypervisor.ListOptions) []hypervisor.VMInfo {
		e.Helper()
		all, err := hypervisor.Collect(e.c.VMs(e.ctx, &o))
		e.ok(err, "VMs")
		return all
	}
	find := func(e *env, all []hypervisor.VMInfo, vm *hypervisor.VM) (hypervisor.VMInfo, bool) {
		i := slices.IndexFunc(all, func(v hypervisor.VMInfo) bool { return v.ID == vm.ID() })
		if i < 0 {
			return hypervisor.VMInfo{}, false
		}
		return all[i], true
	}
	rows := []row{
		{name: "ListOptions.Detail", run: func(e *env) {
			vm := e.create("vm")
			v, ok := find(e, list(e, hypervisor.ListOptions{Detail: hypervisor.DetailBrief}), vm)
			if !ok || len(v.Disks) > 0 || v.Description != "" {
				e.Errorf("a brief listing has %+v, want the fields of DetailBrief alone", v)
			}
		}},
		{name: "ListOptions.Host", run: func(e *env) {
			vm := e.running()
			here := e.info(vm).Host
			if _, ok := find(e, list(e, hypervisor.ListOptions{Host: here}), vm); !ok {
				e.Errorf("VMs of host %s leaves out %s", here, vm.ID())
			}
			for v, err := range e.c.VMs(e.ctx, &hypervisor.ListOptions{Host: "no-such-host"}) {
				if err != nil {
					e.oneOf(err, "VMs of a host that is not there", hypervisor.ErrNotFound)
					break
				}
				e.Errorf("VMs of a host that is not there lists %s", v.ID)
			}
		}},
		{name: "ListOptions.Labels", needs: caps{capability.Labels}, run: func(e *env) {
			vm := e.create("vm", func(s *hypervisor.VMSpec) { s.Labels = map[string]string{"role": "listed"} })
			other := e.create("other")
			all := list(e, given(e, hypervisor.ListOptions{Labels: map[string]string{"role": "listed"}}))
			_, ok := find(e, all, vm)
			if _, wrong := find(e, all, other); !ok || wrong {
				e.Errorf("VMs with a label lists %d machines, %v has it, %v has not", len(all), ok, wrong)
			}
		}},
		{name: "ListOptions.PageSize", run: func(e *env) {
			if e.Open == nil {
				e.unshown("calls can't be counted here")
				return
			}
			for range 4 {
				e.create("vm")
			}
			calls := func(size int) (n int) {
				c, err := e.Open(e.ctx, &hypervisor.Options{Observer: func(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
					return ctx, func(x hypervisor.CallEnd) {
						if c.Name == op.VMList {
							n = x.Calls
						}
					}
				}})
				e.ok(err, "Open")
				defer func() { e.ok(c.Close(), "Close") }()
				for range 2 { // the first call may log in
					_, err = hypervisor.Collect(c.VMs(e.ctx, &hypervisor.ListOptions{PageSize: size}))
					e.ok(err, "VMs")
				}
				return n
			}
			switch small, big := calls(1), calls(0); {
			case small == big && e.site.s.h.Refused[e.row] != "": // it is only a preference
				e.declined = "no pages"
				e.unshown("all machines come in one page")
			case small < big+2:
				e.Errorf("4 machines in pages of 1 took %d calls, in one page %d", small, big)
			}
		}},
	}
	return slices.Concat(rows, placeMarked(), optionRows())
}

// optionRows: fields of Options.
func optionRows() []row {
	open := func(name string, run func(e *env, open func(hypervisor.Options) (*hypervisor.Client, error))) row {
		return row{name: "Options." + name, run: func(e *env) {
			if e.Open == nil {
				e.unshown("options can't be given here")
				return
			}
			run(e, func(o hypervisor.Options) (*hypervisor.Client, error) {
				o = given(e, o)
				c, err := e.Open(e.ctx, &o)
				if err == nil {
					e.Cleanup(func() { _ = c.Close() })
					_, err = c.VM(e.AbsentVM).Info(e.ctx)
					if errors.Is(err, hypervisor.ErrNotFound) {
						err = nil
					}
				}
				return c, err
			})
		}}
	}
	login := func(name string, wrong func(*hypervisor.Credentials)) row {
		return open("Credentials."+name, func(e *env, open func(hypervisor.Options) (*hypervisor.Client, error)) {
			if e.Credentials == nil {
				e.unshown("there are no logins")
				return
			}
			good, bad := *e.Credentials, *e.Credentials
			wrong(&bad)
			_, err := open(hypervisor.Options{Credentials: &good})
			e.ok(err, "Open with the right login")
			_, err = open(hypervisor.Options{Credentials: &bad})
			e.kind(err, hypervisor.ErrUnauthenticated, "Open with a wrong login")
		})
	}
	return []row{
		open("Require", func(e *env, open func(hypervisor.Options) (*hypervisor.Client, error)) {
			_, err := open(hypervisor.Options{Require: []capability.Name{capability.VMCreate}})
			e.ok(err, "Open with Require of what is there")
			_, err = open(hypervisor.Options{Require: []capability.Name{"no.such.thing"}})
			e.kind(err, hypervisor.ErrInvalidArgument, "Open with Require of no capability")
		}),
		login("Username", func(c *hypervisor.Credentials) { c.Username = "nobody-here" }),
		login("Password", func(c *hypervisor.Credentials) { c.Password += "-wrong" }),
		open("Logger", func(e *env, open func(hypervisor.Options) (*hypervisor.Client, error)) {
			var b lines
			_, err := open(hypervisor.Options{Logger: slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			e.ok(err, "Open")
			if !strings.Contains(b.String(), string(op.VMInfo)) {
				e.Errorf("the log of an Info is %q", b.String())
			}
		}),
		open("Observer", func(e *env, open func(hypervisor.Options) (*hypervisor.Client, error)) {
			var mu sync.Mutex
			begun, ended := 0, 0
			_, err := open(hypervisor.Options{Observer: func(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
				mu.Lock()
				defer mu.Unlock()
				if c.Name != op.VMInfo {
					return ctx, func(hypervisor.CallEnd) {}
				}
				begun++
				return ctx, func(hypervisor.CallEnd) { mu.Lock(); defer mu.Unlock(); ended++ }
			}})
			e.ok(err, "Open")
			if begun != 1 || ended != 1 {
				e.Errorf("the Observer saw %d calls of Info begin and %d end, want 1", begun, ended)
			}
		}),
	}
}

// lines is a buffer for several writers.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
