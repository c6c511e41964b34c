//go:build cgo

package fleet

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// onTestDriver opens fleets of libvirt's own test driver, which know nothing of
// each other, and returns the machine that it has.
func onTestDriver(t *testing.T, n int) ([]*Fleet, hypervisor.VMID) {
	t.Helper()
	var all []*Fleet
	for range n {
		f, err := Open(t.Context(), Platform{Name: "test", ReadFacts: libvirtx.ReadFacts,
			OSType: libvirtxml.DomainOSType{Type: "hvm"}, MACPrefix: "52:54:00"}, "", "", []string{"test:///default"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
		all = append(all, f)
	}
	id, err := libvirtx.Do(t.Context(), all[0].Members[0].Conn, 2, func(c *libvirt.Connect) (string, error) {
		dom, err := c.LookupDomainByName("test")
		if err != nil {
			return "", err
		}
		defer dom.Free()
		return dom.GetUUIDString()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, hypervisor.VMID(id)
}

// leases counts the kinds of leases that are there: writers' and readers'.
func (f *Fleet) leases(t *testing.T, id hypervisor.VMID) int {
	t.Helper()
	w, err := libvirtx.Do(t.Context(), f.Members[0].Conn, 2, func(c *libvirt.Connect) (*lease, error) { return findLease(c, leaseName(id)) })
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Members[0].readers(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range []*lease{w, r} {
		if l != nil {
			n++
		}
	}
	return n
}

func done(ctx context.Context, t hypervisor.DriverTask) error {
	for {
		s, err := t.Next(ctx)
		if err != nil {
			return err
		}
		if s.Done {
			return s.Err
		}
	}
}

// TestLeaseOneAtATime lets four processes work on the disks of one machine: in
// turn, and readers beside each other but never beside a writer.
func TestLeaseOneAtATime(t *testing.T) {
	all, id := onTestDriver(t, 4)
	var writers, readers, most atomic.Int32
	var tasks []hypervisor.DriverTask
	for i, f := range all {
		mode := DiskWork
		if i%2 == 1 {
			mode = Reading
		}
		task, err := f.Run(t.Context(), "work", id, mode, func(context.Context, *job.Job) (hypervisor.Ref, error) {
			mine, others := &writers, &readers
			if mode == Reading {
				mine, others = &readers, &writers
			}
			if n := mine.Add(1); n > 1 && mode != Reading || others.Load() > 0 {
				t.Errorf("%d writers and %d readers work at one time", writers.Load(), readers.Load())
			} else if mode == Reading {
				most.Store(max(n, most.Load()))
			}
			time.Sleep(300 * time.Millisecond)
			mine.Add(-1)
			return hypervisor.Ref{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, task)
	}
	for _, task := range tasks {
		if err := done(t.Context(), task); err != nil {
			t.Error(err)
		}
	}
	if n := all[0].leases(t, id); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// TestLeaseOfLongWork refuses what another process works on for long.
func TestLeaseOfLongWork(t *testing.T) {
	all, id := onTestDriver(t, 2)
	release := make(chan struct{})
	long, err := all[0].Run(t.Context(), "long", id, LongWork, func(context.Context, *job.Job) (hypervisor.Ref, error) {
		<-release
		return hypervisor.Ref{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for all[0].leases(t, id) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	for _, mode := range []Lock{DiskWork, LongWork, Reading} {
		task, err := all[1].Run(t.Context(), "other", id, mode, func(context.Context, *job.Job) (hypervisor.Ref, error) {
			t.Error("the work was begun")
			return hypervisor.Ref{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := done(t.Context(), task); !errors.Is(err, hypervisor.ErrBusy) {
			t.Errorf("beside long work: %v, want ErrBusy", err)
		}
	}
	close(release)
	if err := done(t.Context(), long); err != nil {
		t.Error(err)
	}
	if n := all[0].leases(t, id); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// TestLeaseOfADeadOwner takes over what a process left that was killed, and not
// before its beat has stood still for long enough.
func TestLeaseOfADeadOwner(t *testing.T) {
	was := deadAfter
	deadAfter = 3 * time.Second
	defer func() { deadAfter = was }()
	all, id := onTestDriver(t, 1)
	f := all[0]
	_, other, err := f.ask(t.Context(), job.New(job.Spec{ID: "test:snapshot:of:the-dead"}, nil), f.Members[0], id, false)
	if err != nil || other != nil {
		t.Fatal(other, err)
	}
	began := time.Now() // nobody keeps its beat
	task, err := f.Run(t.Context(), "next", id, LongWork, func(context.Context, *job.Job) (hypervisor.Ref, error) { return hypervisor.Ref{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := done(t.Context(), task); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < deadAfter {
		t.Errorf("the lease was taken over after %v", took)
	}
	if n := f.leases(t, id); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// TestLeaseLost ends the context of work whose lease another process took.
func TestLeaseLost(t *testing.T) {
	all, id := onTestDriver(t, 1)
	f := all[0]
	task, err := f.Run(t.Context(), "work", id, LongWork, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		l, err := libvirtx.Do(ctx, f.Members[0].Conn, 3, func(c *libvirt.Connect) (*lease, error) { return findLease(c, leaseName(id)) })
		if err != nil {
			return hypervisor.Ref{}, err
		}
		if err := f.Members[0].endLease(ctx, l); err != nil {
			return hypervisor.Ref{}, err
		}
		<-ctx.Done()
		return hypervisor.Ref{}, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := done(t.Context(), task); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
}
