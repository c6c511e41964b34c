//go:build cgo

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestAnswerLostAtEveryRequest does every operation with the answer to one of
// its requests lost, for each request that changes something.
func TestAnswerLostAtEveryRequest(t *testing.T) {
	l := theLab(t)
	for _, k := range answersCases() {
		t.Run(k.name, func(t *testing.T) {
			rpcproxy.Everywhere(t, 2, func(t *testing.T) rpcproxy.World { return newAnswersTest(t, l, k) })
		})
	}
}

// answersCase is one operation, on a machine that prepare changes first.
type answersCase struct {
	name    string
	pool    string // of the machine's disk
	prepare func(a *answersTest)
	do      func(a *answersTest) error
	// done is what it says when it is asked for what was done already.
	done hypervisor.Kind
}

// answersTest is one try of one case.
type answersTest struct {
	*testing.T
	k      answersCase
	ctx    context.Context
	l      *kvmlab.Lab
	direct *hypervisor.Client
	vm     *hypervisor.VM // of direct
	c      *hypervisor.Client
	all    []*rpcproxy.Proxy // between c and the hosts
	base   rpcproxy.Scene    // before anything was made
	before rpcproxy.Scene    // before the work
}

func newAnswersTest(t *testing.T, l *kvmlab.Lab, k answersCase) *answersTest {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(stop)
	a := &answersTest{T: t, k: k, ctx: ctx, l: l}
	cfg, all := proxied(t, l)
	a.all = all
	open := func(cfg Config) *hypervisor.Client {
		c, err := Open(ctx, cfg)
		a.must(err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	a.direct, a.c = open(config(l.Hosts...)), open(cfg)
	a.base = a.look()
	pool := "default"
	if k.pool != "" {
		pool = k.pool
	}
	var err error
	a.vm, err = a.direct.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], pool))("answers")).Wait(ctx)
	a.must(err)
	a.must(writeDisk(ctx, l, a.vm.ID(), "kept"))
	if k.prepare != nil {
		k.prepare(a)
	}
	a.before = a.look()
	return a
}

func (a *answersTest) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *answersTest) Proxies() []*rpcproxy.Proxy { return a.all }

func (a *answersTest) Try(want rpcproxy.Scene) rpcproxy.Try {
	return rpcproxy.Try{Before: a.before, Want: want, Look: a.look, Do: func() error { return a.k.do(a) }, Done: a.k.done,
		DeleteVolume: func(id hypervisor.VolumeID) error { return ended(a.ctx, a.direct.DeleteVolume(a.ctx, id)) }}
}

// mine is the machine as the Client has it that loses an answer.
func (a *answersTest) mine() *hypervisor.VM { return a.c.VM(a.vm.ID()) }

// End removes all machines and demands that no image is left.
func (a *answersTest) End() {
	a.Helper()
	ctx := context.WithoutCancel(a.ctx)
	for again := true; again; { // clones before their sources
		again = false
		vms, err := hypervisor.Collect(a.direct.VMs(ctx, nil))
		a.must(err)
		templates, err := hypervisor.Collect(a.direct.Templates(ctx))
		a.must(err)
		for _, t := range templates {
			vms = append(vms, hypervisor.VMInfo{ID: hypervisor.VMID(t.ID), Name: t.Name})
		}
		for _, v := range vms {
			if !strings.HasPrefix(v.Name, "answers") {
				continue
			}
			err := ended(ctx, a.direct.VM(v.ID).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
			if again = again || errors.Is(err, hypervisor.ErrBusy); !again {
				a.must(err)
			}
		}
	}
	if s := a.look(); !slices.Equal(s.Files, a.base.Files) || !slices.Equal(s.Domains, a.base.Domains) {
		a.Errorf("after everything was deleted there are %q and %q", s.Domains, s.Files)
	}
}

func ended[T any](ctx context.Context, t *hypervisor.Task[T]) error {
	_, err := t.Wait(ctx)
	return err
}

// look asks virsh and qemu-img.
func (a *answersTest) look() rpcproxy.Scene {
	a.Helper()
	ctx := context.WithoutCancel(a.ctx)
	s := rpcproxy.Scene{Used: map[string]bool{}}
	var err error
	s.Files, err = imageFiles(a.l)
	a.must(err)
	for _, h := range a.l.Hosts {
		virsh := func(args ...string) string {
			out, err := h.Virsh(ctx, args...)
			a.must(err)
			return strings.TrimSpace(out)
		}
		for _, id := range strings.Fields(virsh("list", "--all", "--uuid")) {
			s.Domains = append(s.Domains, h.Name+" "+id)
			line := h.Name
			for _, which := range [][]string{{"dumpxml", id}, {"dumpxml", "--inactive", id}} {
				var x libvirtxml.Domain
				a.must(x.Unmarshal(virsh(which...)))
				line += fmt.Sprintf(", %s %q %d MiB %d CPUs", x.Name, x.Description, libvirtx.MemoryKiB(&x)>>10, currentCPUs(&x))
				for _, k := range libvirtx.Writable(&x) {
					line += fmt.Sprintf(" %s %s", k.Target.Dev, a.use(s, libvirtx.DiskPath(k)))
				}
			}
			line += ", " + virsh("domstate", id)
			if content, err := readDisk(ctx, a.l, hypervisor.VMID(id)); err == nil {
				line += fmt.Sprintf(" holds %q", content)
			}
			for _, n := range strings.Fields(virsh("snapshot-list", "--topological", "--name", id)) {
				var x libvirtxml.DomainSnapshot
				a.must(x.Unmarshal(virsh("snapshot-dumpxml", id, n)))
				line += ", snapshot " + n
				if x.Memory != nil && x.Memory.File != "" {
					s.Used[x.Memory.File] = true
				}
				for _, f := range frozen(&x) {
					line += " " + a.use(s, f)
				}
			}
			s.Lines = append(s.Lines, line)
		}
	}
	slices.Sort(s.Lines)
	return s
}

// use notes an image and what it stands on, and tells its size and the length
// of the chain. An image that is not there ends the test.
func (a *answersTest) use(s rpcproxy.Scene, image string) string {
	a.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(a.ctx), "qemu-img", "info", "-U", "--backing-chain", "--output=json", image).Output()
	if err != nil {
		a.Fatalf("image %s is in use and can't be read: %v", image, err)
	}
	var chain []struct {
		Filename string `json:"filename"`
		Size     int64  `json:"virtual-size"`
	}
	a.must(json.Unmarshal(out, &chain))
	for _, c := range chain {
		s.Used[c.Filename] = true
	}
	return fmt.Sprintf("%d MiB in %d", chain[0].Size>>20, len(chain))
}
