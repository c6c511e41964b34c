package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand makes a platform with a template, and a fleet on it.
func stand(t *testing.T, cfg fake.Config) (*Fleet, *fake.Backend) {
	t.Helper()
	ctx := t.Context()
	b := fake.New(cfg)
	c, err := b.Open(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "golden", MemoryBytes: hypervisor.GiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 8 * hypervisor.GiB}}, NICs: []hypervisor.NICSpec{{}}}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteDisk(vm.ID(), 0, "golden image"); err != nil {
		t.Fatal(err)
	}
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.ForgetCalls()
	return &Fleet{Client: c, Template: tpl.ID()}, b
}

// running returns the names of the machines that run, in order.
func running(t *testing.T, f *Fleet) string {
	t.Helper()
	var names []string
	for v, err := range f.Client.VMs(context.WithoutCancel(t.Context()), nil) {
		if err != nil {
			t.Fatal(err)
		}
		name := v.Name
		if v.State != hypervisor.StateRunning {
			name += "(" + string(v.State) + ")"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func ops(b *fake.Backend, name op.Name) (out []fake.Call) {
	for _, c := range b.Calls() {
		if c.Op == name {
			out = append(out, c)
		}
	}
	return out
}

func TestRollout(t *testing.T) {
	f, b := stand(t, fake.Config{})
	for _, release := range []string{"v1", "v2"} {
		if err := f.Rollout(t.Context(), "web", release, 2); err != nil {
			t.Fatal(err)
		}
	}
	if got := running(t, f); got != "web-v2-0 web-v2-1" {
		t.Errorf("running: %s", got)
	}
	vm, err := f.Client.FindVM(t.Context(), "web-v2-0")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := b.ReadDisk(vm.ID(), 0); got != "golden image" {
		t.Errorf("the disk holds %q", got)
	}
	// What went to the hypervisor: linked clones, each with its token.
	calls := ops(b, "template.deploy")
	if len(calls) != 4 {
		t.Errorf("%d deployments, want 4", len(calls))
	}
	for _, c := range calls {
		r := c.Args.(hypervisor.CloneRequest)
		if r.Mode != hypervisor.CloneModeLinked || r.Token != r.Name || !r.Start {
			t.Errorf("deployed with %+v", r)
		}
	}
}

// A deployment that fails leaves the old release as it was, and nothing new.
func TestRolloutFails(t *testing.T) {
	full := &fake.NativeError{Kind: hypervisor.ErrExhausted, Text: "datastore full"}
	for name, fault := range map[string]fake.Fault{
		"refused":         {Op: "template.deploy", Nth: 2, Err: full},
		"in the middle":   {Op: "template.deploy", Nth: 2, Err: full, After: 0.5},
		"guest is silent": {Op: "guest.info", Nth: 3, Count: -1, Err: &fake.NativeError{Kind: hypervisor.ErrPermission, Text: "no"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := stand(t, fake.Config{})
			if err := f.Rollout(t.Context(), "web", "v1", 2); err != nil {
				t.Fatal(err)
			}
			images := len(b.Images())
			b.Fail(fault)
			err := f.Rollout(t.Context(), "web", "v2", 3)
			if !errors.Is(err, fault.Err) {
				t.Errorf("got %v, want %v in it", err, fault.Err)
			}
			if got := running(t, f); got != "web-v1-0 web-v1-1" {
				t.Errorf("running: %s", got)
			}
			if n := len(b.Images()); n != images {
				t.Errorf("%d images, %d were there before", n, images)
			}
		})
	}
}

// The platform made the machine, its answer was lost: the token finds it.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := stand(t, fake.Config{})
		b.Fail(fake.Fault{Op: op.TemplateDeploy, Nth: 1, Lost: fake.AfterSend})
		if err := f.Rollout(t.Context(), "web", "v1", 2); err != nil {
			t.Fatal(err)
		}
		if got := running(t, f); got != "web-v1-0 web-v1-1" {
			t.Errorf("running: %s", got)
		}
		if n := len(ops(b, "template.deploy")); n != 3 {
			t.Errorf("%d deployments sent, want 3", n)
		}
	})
}

// A session that expires in the middle is renewed by the driver.
func TestExpiredSession(t *testing.T) {
	f, b := stand(t, fake.Config{})
	b.Fail(fake.Fault{Op: op.TemplateDeploy, Nth: 2, Expire: true})
	if err := f.Rollout(t.Context(), "web", "v1", 3); err != nil {
		t.Fatal(err)
	}
	if n := len(ops(b, op.ClientLogin)); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// Four machines, two at a time, an hour each: two hours, in no time.
func TestSlowPlatform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := stand(t, fake.Config{Delays: map[op.Name]time.Duration{op.TemplateDeploy: time.Hour}})
		f.Parallel = 2
		begin := time.Now()
		if err := f.Rollout(t.Context(), "web", "v1", 4); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 2*time.Hour {
			t.Errorf("it took %v, want two hours", took)
		}
		if u := b.Unwaited(); len(u) > 0 {
			t.Errorf("nobody waited for %v", u)
		}
	})
}

// The operator gives up after half an hour: nothing new comes to be.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := stand(t, fake.Config{Delays: map[op.Name]time.Duration{op.TemplateDeploy: time.Hour}})
		images := len(b.Images())
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Minute)
		defer stop()
		if err := f.Rollout(ctx, "web", "v1", 3); !errors.Is(err, hypervisor.ErrCanceled) {
			t.Errorf("got %v, want cancelled", err)
		}
		time.Sleep(2 * time.Hour)
		if got := running(t, f); got != "" {
			t.Errorf("running: %s", got)
		}
		if n := len(b.Images()); n != images {
			t.Errorf("%d images, %d were there before", n, images)
		}
	})
}

// The process dies in the middle of a roll-out and a new one does it again.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := stand(t, fake.Config{Delays: map[op.Name]time.Duration{op.TemplateDeploy: time.Hour}})
		before := f.Client.Template(f.Template).Deploy(t.Context(), "web-v1-0", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, Start: true, Token: "web-v1-0",
			Labels: map[string]string{serviceLabel: "web", releaseLabel: "v1"}})
		if err := before.Err(); err != nil {
			t.Fatal(err)
		}
		_ = f.Client.Close() // the clone continues in the hypervisor
		c, err := b.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f.Client = c
		if err := f.Rollout(t.Context(), "web", "v1", 2); err != nil {
			t.Fatal(err)
		}
		if got := running(t, f); got != "web-v1-0 web-v1-1" {
			t.Errorf("running: %s", got)
		}
	})
}

// A platform without linked clones is recognized before anything is made.
func TestUnable(t *testing.T) {
	f, b := stand(t, fake.Config{Disable: map[capability.Name]hypervisor.Support{
		capability.CloneLinked: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonPlatform, Detail: "disks can't share a base"}}})
	err := f.Rollout(t.Context(), "web", "v1", 2)
	var u *hypervisor.UnsupportedError
	if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonPlatform {
		t.Errorf("got %v, want Unsupported with the reason", err)
	}
	if n := len(ops(b, "template.deploy")); n != 0 {
		t.Errorf("%d deployments", n)
	}
}
