//go:build cgo

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestAnswerLostAtEveryRequest does every operation with the answer to one of
// its requests lost, for each request that changes something. The outcome must
// be the whole work, or an error that says Unavailable with everything that is
// left behind named; doing it again then ends as if nothing had happened.
func TestAnswerLostAtEveryRequest(t *testing.T) {
	l := theLab(t)
	for _, k := range answersCases() {
		t.Run(k.name, func(t *testing.T) {
			a := newAnswersTest(t, l, k)
			a.must(k.do(a))
			asked := [][]uint32{a.all[0].procedures(), a.all[1].procedures()}
			want := a.look()
			a.end()
			struck := 0
			for host, all := range asked {
				times := map[uint32]int{}
				for _, p := range all {
					name, ok := changing[p]
					if times[p]++; !ok || times[p] > 2 {
						continue
					}
					t.Run(fmt.Sprintf("%s %d at %s", name, times[p], l.Hosts[host].Name), func(t *testing.T) {
						a := newAnswersTest(t, l, k)
						defer a.end()
						a.all[host].loseAnswer(p, times[p]-1)
						a.outcome(k, want, a.all[host])
						if a.all[host].struck() {
							struck++
						}
					})
				}
			}
			if struck == 0 {
				t.Error("no answer was lost in any of them")
			}
		})
	}
}

// changing are the requests after which something is different.
var changing = map[uint32]string{
	9: "create", 10: "create-xml", procDefine: "define", 12: "destroy", 28: "resume", 34: "suspend",
	93: "volume-create", 94: "volume-delete", procVolumeCreateFrom: "volume-create-from",
	160: "attach", 161: "detach", 182: "managed-save", 184: "managed-save-remove",
	procSnapshotCreate: "snapshot-create", 193: "snapshot-delete", 196: "create-with-flags",
	199: "set-vcpus", 204: "set-memory", procUndefine: "undefine", 233: "restore",
	procBlockJobAbort: "block-job-abort", 251: "block-resize", 260: "volume-resize", 264: "set-metadata",
	procBlockCommit: "block-commit", 305: "migrate-perform", 345: "block-copy", 350: "define-flags", 358: "rename",
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
	ctx    context.Context
	l      *kvmlab.Lab
	direct *hypervisor.Client
	vm     *hypervisor.VM // of direct
	c      *hypervisor.Client
	all    []*proxy // between c and the hosts
	base   scene    // before anything was made
	before scene    // before the work
}

func newAnswersTest(t *testing.T, l *kvmlab.Lab, k answersCase) *answersTest {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(stop)
	a := &answersTest{T: t, ctx: ctx, l: l}
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
	for _, p := range all {
		p.procedures()
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

// mine is the machine as the Client has it that loses an answer.
func (a *answersTest) mine() *hypervisor.VM { return a.c.VM(a.vm.ID()) }

// end removes all machines and demands that no image is left.
func (a *answersTest) end() {
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
	if s := a.look(); !slices.Equal(s.files, a.base.files) || !slices.Equal(s.domains, a.base.domains) {
		a.Errorf("after everything was deleted there are %q and %q", s.domains, s.files)
	}
}

func ended[T any](ctx context.Context, t *hypervisor.Task[T]) error {
	_, err := t.Wait(ctx)
	return err
}

// outcome does the work while an answer is lost and judges what comes of it.
func (a *answersTest) outcome(k answersCase, want scene, p *proxy) {
	err := k.do(a)
	if !p.struck() { // work that waits asks as often as it has to
		a.Log("no answer was lost")
		a.must(err)
	}
	now := a.look()
	if err == nil {
		if now.shape() != want.shape() {
			a.Errorf("it succeeded, but there is\n%s\nwant\n%s", now.shape(), want.shape())
		}
		return
	}
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.KindUnavailable {
		a.Fatalf("the error is %v (%s), want Unavailable", err, hypervisor.KindOf(err))
	}
	a.Logf("%v", err)
	left := map[string]bool{}
	for _, r := range e.Leftover {
		left[filepath.Base(r.ID)] = true
	}
	for _, d := range now.domains {
		if !slices.Contains(a.before.domains, d) && !left[strings.Fields(d)[1]] && now.shape() != want.shape() {
			a.Errorf("domain %s is left behind, Leftover names %v", d, e.Leftover)
		}
	}
	for _, f := range now.files {
		switch name := filepath.Base(f); {
		case !now.used[f] && !left[name] && (a.before.used[f] || !slices.Contains(a.before.files, f)):
			a.Errorf("image %s is left behind, Leftover names %v", f, e.Leftover)
		case now.used[f] && left[name]:
			a.Errorf("image %s is in use, and Leftover names it", f)
		}
	}
	for _, r := range e.Leftover {
		if r.Kind == hypervisor.KindOfVolume {
			if err := ended(a.ctx, a.direct.DeleteVolume(a.ctx, hypervisor.VolumeID(r.ID))); err != nil {
				a.Errorf("the leftover can't be deleted: %v", err)
			}
		}
	}
	if now = a.look(); now.shape() != want.shape() {
		if err := k.do(a); err != nil && (k.done == hypervisor.KindUnknown || hypervisor.KindOf(err) != k.done) {
			a.Errorf("again: %v", err)
		}
	}
	if now = a.look(); now.shape() != want.shape() {
		a.Errorf("in the end there is\n%s\nwant\n%s", now.shape(), want.shape())
	}
}

// scene is what is on the hosts, without the driver's word for it.
type scene struct {
	domains []string // host and UUID
	lines   []string // one for each domain
	files   []string
	used    map[string]bool // by a domain or a snapshot, with all below
}

// shape is a scene without what is different each time.
func (s scene) shape() string {
	return fmt.Sprintf("%s\n%d files, %d in use", strings.Join(s.lines, "\n"), len(s.files), len(s.used))
}

func (a *answersTest) look() scene {
	a.Helper()
	ctx := context.WithoutCancel(a.ctx)
	s := scene{used: map[string]bool{}}
	var err error
	s.files, err = imageFiles(a.l)
	a.must(err)
	for _, h := range a.l.Hosts {
		virsh := func(args ...string) string {
			out, err := h.Virsh(ctx, args...)
			a.must(err)
			return strings.TrimSpace(out)
		}
		for _, id := range strings.Fields(virsh("list", "--all", "--uuid")) {
			s.domains = append(s.domains, h.Name+" "+id)
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
					s.used[x.Memory.File] = true
				}
				for _, f := range frozen(&x) {
					line += " " + a.use(s, f)
				}
			}
			s.lines = append(s.lines, line)
		}
	}
	slices.Sort(s.lines)
	return s
}

// use notes an image and what it stands on, and tells its size and the length
// of the chain. An image that is not there ends the test.
func (a *answersTest) use(s scene, image string) string {
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
		s.used[c.Filename] = true
	}
	return fmt.Sprintf("%d MiB in %d", chain[0].Size>>20, len(chain))
}
