package vsphere

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// impatient makes a Client whose maker of a base is dead be taken for it soon.
func impatient(t *testing.T, after time.Duration) {
	was := baseIdle
	baseIdle = after
	t.Cleanup(func() { baseIdle = was })
}

// nativeTemplate makes a template as other programs do: without a base.
func nativeTemplate(t *testing.T, sim *vspheresim.Sim, c *hypervisor.Client, name string) *hypervisor.Template {
	t.Helper()
	s := spec(name)
	s.Description = "notes of " + name
	vm, err := c.CreateVM(t.Context(), s).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.WriteDisk(string(vm.ID()), 0, "golden"); err != nil {
		t.Fatal(err)
	}
	nativeMark(t, c, vm)
	return c.Template(hypervisor.TemplateID(vm.ID()))
}

func nativeMark(t *testing.T, c *hypervisor.Client, vm *hypervisor.VM) {
	t.Helper()
	if err := nativelyMarked(t.Context(), c, vm); err != nil {
		t.Fatal(err)
	}
}

// hasOneBase demands that a template is one, as it was, with one base.
func hasOneBase(t *testing.T, c *hypervisor.Client, tpl *hypervisor.Template, name string) {
	t.Helper()
	i, err := tpl.Info(t.Context())
	if err != nil || i.Description != "notes of "+name {
		t.Errorf("the template has the notes %q (%v)", i.Description, err)
	}
	vm := c.VM(hypervisor.VMID(tpl.ID()))
	p, err := driverOf(t, c).one(t.Context(), vmRef(vm.ID()), "summary.config.template", notePath, basePath)
	if err != nil || !get[bool](p, "summary.config.template") || p.str(notePath) != "notes of "+name || optionValue(p[basePath]) != "" {
		t.Errorf("the template is %v (%v)", p, err)
	}
	l, err := vm.Snapshots(t.Context())
	if err != nil || len(l) != 1 || l[0].Name != baseName {
		t.Errorf("the template has the snapshots %+v (%v), want one base", l, err)
	}
}

// driverOf makes a driver that reads over the same connection.
func driverOf(t *testing.T, c *hypervisor.Client) *driver {
	t.Helper()
	vc, err := hypervisor.As[*govmomi.Client](t.Context(), c, c)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(vc.Client, nil)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// TestDeployTwenty: of twenty linked machines that are made at a time twenty are made, of templates with and without a base, while full
// ones are made too, by one Client and by four.
func TestDeployTwenty(t *testing.T) {
	delays := []time.Duration{0, 100 * time.Millisecond}
	if s := os.Getenv("ANYVISOR_TEST_TASKS"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		delays = []time.Duration{d}
	}
	for _, delay := range delays {
		for _, clients := range []int{1, 4} {
			for _, own := range []bool{false, true} {
				t.Run(fmt.Sprintf("tasks of %v, %d clients, own %v", delay, clients, own), func(t *testing.T) {
					sim, c := once(t, vspheresim.Config{HostMemoryMB: 1 << 20})
					ctx := t.Context()
					tpl := nativeTemplate(t, sim, c, "golden")
					if own {
						vm, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
						if err != nil {
							t.Fatal(err)
						}
						if tpl, err = vm.MarkTemplate(ctx).Wait(ctx); err != nil {
							t.Fatal(err)
						}
					}
					all := []*hypervisor.Client{c}
					for len(all) < clients {
						x, err := openSim(ctx, sim.URL())
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = x.Close() })
						all = append(all, x)
					}
					sim.SetTaskDelay("*", delay)
					sim.ResetCalls()
					var wg sync.WaitGroup
					for n := range 24 {
						mode, by := hypervisor.CloneModeLinked, all[n%clients]
						if n%6 == 5 {
							mode = hypervisor.CloneModeFull
						}
						wg.Go(func() {
							vm, err := by.Template(tpl.ID()).Deploy(ctx, fmt.Sprint("worker ", n), &hypervisor.CloneOptions{Mode: mode, Start: true, Token: fmt.Sprint("worker-", n)}).Wait(ctx)
							if err != nil {
								t.Errorf("%s machine %d: %v", mode, n, err)
								return
							}
							if got, err := sim.ReadDisk(string(vm.ID()), 0); err != nil || got != "golden" {
								t.Errorf("%s machine %d holds %q (%v)", mode, n, got, err)
							}
							if i, err := vm.Info(ctx); err != nil || i.Template || i.State != hypervisor.StateRunning {
								t.Errorf("%s machine %d is %+v (%v)", mode, n, i, err)
							}
						})
					}
					wg.Wait()
					sim.SetTaskDelay("*", 0)
					// While full clones are made the server refuses the call, which is
					// then repeated.
					if n := sim.Calls()["MarkAsVirtualMachine"]; (n == 0) != own {
						t.Errorf("the template was made a machine by %d calls", n)
					}
					hasOneBase(t, c, tpl, "golden")
				})
			}
		}
	}
}

// mortal is the connection of a Client that is killed at one of its calls.
type mortal struct {
	next soap.RoundTripper

	mu    sync.Mutex
	last  int  // the call at which it dies; 0 for never
	after bool // the server gets that call
	names []string
}

var errKilled = errors.New("the client was killed")

func (m *mortal) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	m.mu.Lock()
	m.names = append(m.names, strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", req), "*methods."), "Body"))
	n, last := len(m.names), m.last
	m.mu.Unlock()
	switch {
	case last == 0 || n < last:
		return m.next.RoundTrip(ctx, req, res)
	case n == last && m.after:
		_ = m.next.RoundTrip(ctx, req, res)
	}
	return errKilled
}

// mortalClient logs in with a session of its own.
func mortalClient(t *testing.T, sim *vspheresim.Sim) (*mortal, *hypervisor.Client) {
	t.Helper()
	vc, err := govmomi.NewClient(t.Context(), sim.URL(), true)
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{next: vc.RoundTripper}
	vc.RoundTripper = m
	vc.Client.RoundTripper = m
	c, err := New(t.Context(), vc, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		vc.CloseIdleConnections()
	})
	return m, c
}

// TestMakerIsKilled: where ever a Client dies while it makes the base of a template, the next deployment finds the template by its name,
// continues, and leaves it as a template with one base.
func TestMakerIsKilled(t *testing.T) {
	impatient(t, 200*time.Millisecond)
	sim, c := once(t, vspheresim.Config{HostMemoryMB: 1 << 20, TaskDelay: vspheresim.Immediate})
	linked := &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}
	// The calls of one who lives.
	m, x := mortalClient(t, sim)
	tpl := nativeTemplate(t, sim, c, "lives")
	before := len(m.names)
	if _, err := x.Template(tpl.ID()).Deploy(t.Context(), "of lives", linked).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls := m.names[before:]
	if len(calls) < 20 {
		t.Fatalf("a base takes the calls %v", calls)
	}
	for _, after := range []bool{false, true} {
		for n, call := range calls {
			if after && strings.HasPrefix(call, "Retrieve") {
				continue // a reading that is answered to nobody
			}
			t.Run(fmt.Sprintf("%d %s after %v", n, call, after), func(t *testing.T) {
				t.Parallel()
				name := fmt.Sprintf("golden %d %v", n, after)
				tpl := nativeTemplate(t, sim, c, name)
				m, x := mortalClient(t, sim)
				m.mu.Lock()
				m.last, m.after = len(m.names)+n+1, after
				m.mu.Unlock()
				_, err := x.Template(tpl.ID()).Deploy(t.Context(), "first of "+name, linked).Wait(t.Context())
				if err == nil && !after && n < len(calls)-1 {
					t.Errorf("killed, it made its machine")
				}
				found, ferr := c.FindTemplate(t.Context(), name)
				if ferr != nil || found.ID() != tpl.ID() {
					t.Fatalf("the template is not found: %v", ferr)
				}
				if _, err := c.VM(hypervisor.VMID(tpl.ID())).Start(t.Context()).Wait(t.Context()); !errors.Is(err, hypervisor.ErrInvalidState) {
					t.Errorf("start of the template: %v", err)
				}
				vm, derr := found.Deploy(t.Context(), "next of "+name, linked).Wait(t.Context())
				if derr != nil {
					t.Fatalf("after %v: %v", err, derr)
				}
				if got, err := sim.ReadDisk(string(vm.ID()), 0); err != nil || got != "golden" {
					t.Errorf("the next machine holds %q (%v)", got, err)
				}
				hasOneBase(t, c, tpl, name)
			})
		}
	}
}

// TestMakerIsSlow: a maker that lives is waited for, however long its tasks take and those of others that are in its way.
func TestMakerIsSlow(t *testing.T) {
	impatient(t, 2*time.Second)
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	tpl := nativeTemplate(t, sim, c, "golden")
	other, err := openSim(ctx, sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	sim.SetTaskDelay("CloneVM_Task", 5*time.Second)
	full := c.Template(tpl.ID()).Deploy(ctx, "full", nil)
	if err := full.Err(); err != nil {
		t.Fatal(err)
	}
	sim.SetTaskDelay("CloneVM_Task", 0)
	sim.SetTaskDelay("CreateSnapshot_Task", 5*time.Second)
	sim.ResetCalls()
	var wg sync.WaitGroup
	for n, by := range []*hypervisor.Client{c, other} {
		wg.Go(func() {
			if _, err := by.Template(tpl.ID()).Deploy(ctx, fmt.Sprint("linked ", n), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx); err != nil {
				t.Errorf("linked machine %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if _, err := full.Wait(ctx); err != nil {
		t.Errorf("the full machine: %v", err)
	}
	if n := sim.Calls()["CreateSnapshot_Task"]; n != 1 {
		t.Errorf("%d snapshots were begun", n)
	}
	hasOneBase(t, c, tpl, "golden")
}

// TestFullCloneMeetsBase: a full clone that begins while the template is a machine for its base is made when it is a template again.
func TestFullCloneMeetsBase(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	tpl := nativeTemplate(t, sim, c, "golden")
	m, x := mortalClient(t, sim)
	sim.SetTaskDelay("CreateSnapshot_Task", time.Second)
	// This one has read the template before the base is begun, and sends its clone when that is under way.
	hold := holding{m.next, make(chan struct{}), make(chan struct{})}
	m.next = hold
	full := make(chan error, 1)
	go func() {
		_, err := x.Template(tpl.ID()).Deploy(ctx, "full", nil).Wait(ctx)
		full <- err
	}()
	<-hold.reached
	linked := c.Template(tpl.ID()).Deploy(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
	for sim.Calls()["CreateSnapshot_Task"] == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	close(hold.until)
	if err := <-full; err != nil {
		t.Errorf("the full machine: %v", err)
	}
	if _, err := linked.Wait(ctx); err != nil {
		t.Errorf("the linked machine: %v", err)
	}
	if n := sim.Calls()["CloneVM_Task"]; n != 3 {
		t.Errorf("%d clones were begun, want one that was refused and two", n)
	}
	hasOneBase(t, c, tpl, "golden")
}

// holding keeps the first start of a clone back.
type holding struct {
	next           soap.RoundTripper
	reached, until chan struct{}
}

func (h holding) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if _, ok := req.(*methods.CloneVM_TaskBody); ok {
		select {
		case <-h.until:
		default:
			close(h.reached)
			<-h.until
		}
	}
	return h.next.RoundTrip(ctx, req, res)
}
