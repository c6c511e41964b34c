package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// slow opens a platform on which one kind of work takes a while.
func slow(ctx context.Context, name op.Name, d time.Duration) *hypervisor.Client {
	c, err := fake.New(fake.Config{Delays: map[op.Name]time.Duration{name: d}}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// When the caller gives up, Run has the work cancelled and reports how it
// ended.
func ExampleTask_Run() {
	ctx := context.Background()
	c := slow(ctx, op.VMClone, time.Hour)
	defer c.Close()
	vm := machine(ctx, c, "base")
	impatient, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	_, err := vm.Clone(ctx, "copy", nil).Run(impatient, time.Minute)
	fmt.Println("cancelled:", errors.Is(err, hypervisor.ErrCanceled))
	all, err := hypervisor.Collect(c.VMs(ctx, nil))
	fmt.Println(len(all), "machine", err)
	// Output:
	// cancelled: true
	// 1 machine <nil>
}

func ExampleTask_Progress() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	task := machine(ctx, c, "base").Clone(ctx, "copy", nil)
	for s, err := range task.Progress(ctx) {
		if err != nil { // the watching ended, not the work
			log.Fatal(err)
		}
		if s.Done {
			fmt.Printf("%.0f%%, failed: %v\n", 100*s.Fraction, s.Err != nil)
		}
	}
	// Output: 100%, failed: false
}

func ExampleTask_Cancel() {
	ctx := context.Background()
	c := slow(ctx, op.VMClone, time.Hour)
	defer c.Close()
	task := machine(ctx, c, "base").Clone(ctx, "copy", nil)
	if err := task.Cancel(ctx); err != nil { // ErrUnsupported where this work can't be cancelled
		log.Fatal(err)
	}
	_, err := task.Wait(ctx) // only this reports how it ended
	fmt.Println(errors.Is(err, hypervisor.ErrCanceled))
	// Output: true
}

// Err does not wait: it is the error of the start, if there was one.
func ExampleTask_Err() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	task := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01"})
	fmt.Println(errors.Is(task.Err(), hypervisor.ErrInvalidArgument), task.ID() == "")
	// Output: true true
}

// The ID is worth storing: it finds the work again after a restart.
func ExampleTask_ID() {
	ctx := context.Background()
	b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{op.VMClone: 20 * time.Millisecond}})
	before, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	stored := machine(ctx, before, "base").Clone(ctx, "copy", nil).ID()
	_ = before.Close() // the platform continues

	after, err := b.Open(ctx, nil) // another process
	if err != nil {
		log.Fatal(err)
	}
	defer after.Close()
	task, err := after.Task(ctx, stored)
	if err != nil {
		log.Fatal(err)
	}
	ref, err := task.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	show(ctx, after.VM(hypervisor.VMID(ref.ID)))
	// Output: copy off
}

// A task that was found knows what it is.
func ExampleClient_Task() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	b.SetDelay(op.VMMigrate, 300*time.Millisecond)
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	to := hypervisor.HostID("host-1")
	if info.Host == to {
		to = "host-2"
	}
	if err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: to}).Err(); err != nil {
		log.Fatal(err)
	}
	if info, err = vm.Info(ctx); err != nil {
		log.Fatal(err)
	}
	for _, id := range info.Tasks { // those at work on the machine now
		task, err := c.Task(ctx, id)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := task.Wait(ctx); err != nil {
			log.Fatal(err)
		}
		fmt.Println(task.Op(), "of the machine:", task.Object().ID == string(vm.ID()), "there:", task.Migration().Host == to)
	}
	_, err = c.Task(ctx, "task-of-last-year")
	fmt.Println("forgotten:", errors.Is(err, hypervisor.ErrNotFound))
	// Output:
	// vm.migrate of the machine: true there: true
	// forgotten: true
}

func ExampleTask_Op() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	task := vm.Start(ctx)
	fmt.Println(task.Op(), task.Object() == vm.Ref(), time.Since(task.Started()) < time.Hour)
	// Output: vm.start true true
}

// Notes say what was done besides what was asked.
func ExampleTask_Notes() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	task := machine(ctx, c, "render-01").AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"})
	if _, err := task.Wait(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(task.Notes()[0])
	// Output: all 1024 MiB of memory are reserved
}

func ExampleTask_Migration() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB, Start: true, Placement: hypervisor.Placement{Host: "host-1"}}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	task := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: "host-2"})
	fmt.Println("before the end:", task.Migration() != nil)
	if _, err := task.Wait(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("afterwards:", task.Migration().Host)
	// Output:
	// before the end: false
	// afterwards: host-2
}

// A DetachedError has the ID of the work that continues.
func ExampleDetachedError() {
	ctx := context.Background()
	c := slow(ctx, op.VMCreate, time.Hour)
	defer c.Close()
	impatient, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	_, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB}).Wait(impatient)
	var d *hypervisor.DetachedError
	if errors.As(err, &d) {
		fmt.Println(d.Task != "", errors.Is(err, context.DeadlineExceeded))
	}
	// Output: true true
}

// An Error says what was tried, on what, and what is left behind.
func ExampleError() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	b.Fail(fake.Fault{Op: op.VMCreate, Err: &fake.NativeError{Kind: hypervisor.ErrUnavailable, Text: "the host has crashed"}, Leftover: true})
	spec := hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}
	_, err = c.CreateVM(ctx, spec).Wait(ctx)
	var e *hypervisor.Error
	if errors.As(err, &e) {
		fmt.Println(e.Op, e.Kind.String(), "safe to repeat:", e.Retryable())
		for _, r := range e.Leftover {
			fmt.Println("left behind: a", r.Kind)
		}
	}
	// Output:
	// vm.create unavailable safe to repeat: false
	// left behind: a volume
}

func ExampleUnsupportedError() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{NoTools: true}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = started(ctx, c, "web-01").Shutdown(ctx, nil).Wait(ctx)
	var u *hypervisor.UnsupportedError
	if errors.As(err, &u) {
		fmt.Println(u.Capability, u.Support.Reason, errors.Is(err, errors.ErrUnsupported))
	}
	// Output: power.shutdown tools-missing true
}

func ExampleError_Retryable() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	for _, fault := range []fake.Fault{
		{Op: op.VMStart, Err: &fake.NativeError{Kind: hypervisor.ErrBusy, Text: "another task holds the machine"}},
		{Op: op.VMStart, Lost: fake.BeforeSend, Count: -1}, // it never arrives
		{Op: op.VMStart, Lost: fake.AfterSend},             // the answer is lost
	} {
		b.Fail(fault)
		_, err := vm.Start(ctx).Wait(ctx)
		b.Heal()
		var e *hypervisor.Error
		if errors.As(err, &e) {
			fmt.Println(e.Kind.String(), e.Retryable())
		}
	}
	// Output:
	// busy true
	// unavailable true
	// unavailable false
}

func ExampleOperations() {
	for _, o := range hypervisor.Operations() {
		if o.Name == op.SnapshotCreate {
			fmt.Println(o.Method, o.Task, o.Capabilities)
		}
	}
	// Output: VM.CreateSnapshot true [snapshot.disk snapshot.memory snapshot.quiesce]
}

func ExampleSecret() {
	c := hypervisor.Credentials{Username: "svc", Password: "correct horse"}
	fmt.Printf("%v %+v %q\n", c, c.Password, c.Password)
	// Output: svc:*** *** "***"
}
