//go:build cgo

package libxl

import (
	"errors"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
)

// TestAnswerLostAtEveryRequest does work on machines that are off with the
// answer to one of its requests lost, for each request that changes something.
func TestAnswerLostAtEveryRequest(t *testing.T) {
	newWorld(t, false) // skips where there is no lab
	for _, k := range answersCases {
		t.Run(k.name, func(t *testing.T) {
			rpcproxy.Everywhere(t, 1, func(t *testing.T) rpcproxy.World { return newAnswersTest(t, k) })
		})
	}
}

// answersCase is one operation, on a machine of the first host that is off.
type answersCase struct {
	name string
	do   func(a *answersTest) error
	done hypervisor.Kind // of the error for what was done already
}

var answersCases = []answersCase{
	{name: "create", do: func(a *answersTest) error {
		s := guest(pvh, "answers-2", a.ds)
		s.Token, s.Placement.Host = string(a.vm.ID()), a.id(a.l.Hosts[0])
		return ended(a, a.lossy.CreateVM(a.ctx, s))
	}},
	{name: "linked clone", do: func(a *answersTest) error {
		return ended(a, a.mine().Clone(a.ctx, "answers-2", &hypervisor.CloneOptions{Mode: hypervisor.Linked, Token: string(a.vm.ID())}))
	}},
	{name: "rename", do: func(a *answersTest) error { return ended(a, a.mine().Rename(a.ctx, "answers-renamed")) }},
	{name: "delete", done: hypervisor.KindNotFound, do: func(a *answersTest) error {
		return ended(a, a.mine().Delete(a.ctx, hypervisor.DeleteDisks, nil))
	}},
	{name: "move", do: func(a *answersTest) error {
		return ended(a, a.mine().Migrate(a.ctx, hypervisor.MigrateOptions{Host: a.id(a.l.Hosts[1])}))
	}},
	{name: "move of a disk", do: func(a *answersTest) error {
		return ended(a, a.mine().Migrate(a.ctx, hypervisor.MigrateOptions{Storage: a.local}))
	}},
}

// answersTest is one try of one case.
type answersTest struct {
	*world
	k      answersCase
	vm     *hypervisor.VM
	lossy  *hypervisor.Client
	all    []*rpcproxy.Proxy // between lossy and the hosts
	local  hypervisor.DatastoreID
	base   rpcproxy.Scene // before anything was made
	before rpcproxy.Scene // before the work
}

func newAnswersTest(t *testing.T, k answersCase) *answersTest {
	t.Helper()
	a := &answersTest{world: newWorld(t, false), k: k}
	a.local = poolUUID(t, a.l.Hosts[0], "default")
	cfg := Config{Peers: map[string]Peer{}}
	for _, h := range a.l.Hosts {
		p := throughProxy(t, h)
		a.all = append(a.all, p)
		cfg.Hosts = append(cfg.Hosts, proxyURI(p))
		cfg.Peers[proxyURI(p)] = Peer{Migrate: h.MigrateURI}
	}
	var err error
	a.lossy, err = Open(a.ctx, cfg, nil)
	a.ok(err, "open through the proxies")
	t.Cleanup(func() {
		if err := a.lossy.Close(); err != nil {
			t.Error(err)
		}
	})
	a.base = a.look()
	s := guest(pvh, "answers", a.ds)
	s.Placement.Host = a.id(a.l.Hosts[0])
	a.vm, err = a.c.CreateVM(a.ctx, s).Wait(a.ctx)
	a.ok(err, "create")
	a.before = a.look()
	return a
}

func (a *answersTest) Proxies() []*rpcproxy.Proxy { return a.all }

func (a *answersTest) Try(want rpcproxy.Scene) rpcproxy.Try {
	return rpcproxy.Try{Before: a.before, Want: want, Look: a.look, Do: func() error { return a.k.do(a) }, Done: a.k.done,
		DeleteVolume: func(id hypervisor.VolumeID) error { return ended(a, a.c.DeleteVolume(a.ctx, id)) }}
}

// mine is the machine as the Client has it that loses an answer.
func (a *answersTest) mine() *hypervisor.VM { return a.lossy.VM(a.vm.ID()) }

func ended[T any](a *answersTest, t *hypervisor.Task[T]) error {
	_, err := t.Wait(a.ctx)
	return err
}

// End removes what the try made, and demands that nothing else is left.
func (a *answersTest) End() {
	a.Helper()
	for again := true; again; { // clones before their sources
		again = false
		vms, err := hypervisor.Collect(a.c.VMs(a.ctx, nil))
		a.ok(err, "VMs")
		for _, v := range vms {
			if !strings.HasPrefix(v.Name, "answers") {
				continue
			}
			err := ended(a, a.c.VM(v.ID).Delete(a.ctx, hypervisor.DeleteDisks, nil))
			if again = again || errors.Is(err, hypervisor.ErrBusy); !again {
				a.ok(err, "delete "+v.Name)
			}
		}
	}
	if s := a.look(); !slices.Equal(s.Files, a.base.Files) || !slices.Equal(s.Domains, a.base.Domains) {
		a.Errorf("after everything was deleted there are %q and %q", s.Domains, s.Files)
	}
}

// listDefinitions tells the definitions that libvirt keeps in files on a host,
// and what their images stand on.
const listDefinitions = `for x in /etc/libvirt/libxl/*.xml; do
	[ -e "$x" ] || continue
	sed -n 's:^  <name>\(.*\)</name>:name \1:p; s:^  <uuid>\(.*\)</uuid>:uuid \1:p' "$x"
	for f in $(sed -n "s:.*<source file='\([^']*\)'.*:\1:p" "$x"); do
		echo disk
		qemu-img info -U --backing-chain "$f" | sed -n 's/^image: /image /p'
	done
done`

// look reads the hosts' files.
func (a *answersTest) look() rpcproxy.Scene {
	a.Helper()
	s := rpcproxy.Scene{Used: map[string]bool{}}
	files, err := images(a.ctx, a.l)
	a.ok(err, "images")
	for _, f := range files {
		s.Files = append(s.Files, strings.Replace(f, ":", "/", 1)) // a host's own
	}
	texts := make([]string, len(a.l.Hosts))
	errs := make([]error, len(a.l.Hosts))
	var wg sync.WaitGroup
	for i, h := range a.l.Hosts {
		wg.Go(func() { texts[i], errs[i] = h.Run(a.ctx, listDefinitions) })
	}
	wg.Wait()
	for i, h := range a.l.Hosts {
		a.ok(errs[i], "definitions of "+h.Name)
		for line := range strings.Lines(texts[i]) {
			last := len(s.Lines) - 1
			switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); word {
			case "name":
				s.Lines = append(s.Lines, h.Name+" "+rest)
			case "uuid":
				s.Domains = append(s.Domains, h.Name+" "+rest)
			case "disk":
				s.Lines[last] += ", disk"
			case "image":
				s.Lines[last] += " on an image"
				if dir, f := path.Split(rest); dir == xenlab.ImageDir+"/" {
					s.Used[h.Name+"/"+f] = true
				} else {
					s.Used[f] = true
				}
			}
		}
	}
	slices.Sort(s.Lines)
	return s
}
