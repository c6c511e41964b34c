package fake_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// mutant is a driver with one lie, the area of the suite that must see it and
// a part of the finding, so that it isn't caught by accident.
type mutant struct {
	name, area, finding string
	cfg                 fake.Config
	tell                func(l *lie)
}

var bg = context.Background()

func disabled(k capability.Name) fake.Config {
	return fake.Config{Disable: map[capability.Name]hypervisor.Support{k: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonPlatform, Detail: "no such thing"}}}
}

func vmRef(id vmID) hypervisor.Ref { return id.Ref() }

func mutants() []mutant {
	return slices.Concat(inventoryMutants(), stateMutants(), copyMutants(), moveMutants(), answerMutants(), availabilityMutants(), foreignMutants(), foreignCopyMutants(), concurrencyMutants(), faultMutants(), contextMutants())
}

func inventoryMutants() []mutant {
	return []mutant{
		{name: "a listing skips one", area: "inventory", finding: "leaves out", tell: func(l *lie) {
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				p, err := l.Driver.ListVMs(ctx, q)
				if len(p.VMs) > 1 {
					p.VMs = p.VMs[1:]
				}
				return p, err
			}
		}},
		{name: "pages overlap", area: "inventory", finding: "twice", tell: func(l *lie) {
			var last hypervisor.VMInfo
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				p, err := l.Driver.ListVMs(ctx, q)
				if q.Page != "" && err == nil {
					p.VMs = append([]hypervisor.VMInfo{last}, p.VMs...)
				}
				if p.Next != "" {
					last = p.VMs[len(p.VMs)-1]
				}
				return p, err
			}
		}},
		{name: "brief rounds the memory", area: "inventory", finding: "VMs (brief", tell: func(l *lie) {
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				p, err := l.Driver.ListVMs(ctx, q)
				for i := range p.VMs {
					if q.Detail == hypervisor.DetailBrief {
						p.VMs[i].MemoryBytes = p.VMs[i].MemoryBytes / 1000 * 1000
					}
				}
				return p, err
			}
		}},
		{name: "templates among the machines", area: "templates", finding: "VMs lists the template", tell: func(l *lie) {
			l.list = func(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
				p, err := l.Driver.ListVMs(ctx, q)
				if !q.Templates && q.Page == "" && err == nil {
					q.Templates, q.PageSize = true, 0
					t, _ := l.Driver.ListVMs(ctx, q)
					p.VMs = append(p.VMs, t.VMs...)
				}
				return p, err
			}
		}},
		{name: "absent is unknown", area: "inventory", finding: "Info of an absent ID", tell: func(l *lie) {
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				v, err := l.Driver.GetVM(ctx, id)
				if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
					err = errors.New("500 internal server error")
				}
				return v, err
			}
		}},
		{name: "a read outlives its context", area: "tasks", finding: "Info with an ended context succeeded", tell: func(l *lie) {
			l.get = func(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
				return l.Driver.GetVM(context.WithoutCancel(ctx), id)
			}
		}},
		{name: "names are escaped twice", area: "input", finding: "came back as", tell: func(l *lie) {
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				s.Name = strings.ReplaceAll(s.Name, "&", "&amp;")
				return l.Driver.CreateVM(ctx, s)
			}
		}},
		{name: "long names are cut", area: "input", finding: "came back as", tell: func(l *lie) {
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				s.Name = s.Name[:min(len(s.Name), 80)]
				return l.Driver.CreateVM(ctx, s)
			}
		}},
		{name: "labels are added, not replaced", area: "labels", finding: "after SetLabels", tell: func(l *lie) {
			l.setLabels = func(ctx context.Context, id vmID, m map[string]string) error {
				v, err := l.Driver.GetVM(ctx, id)
				if err != nil {
					return err
				}
				if v.Labels == nil {
					v.Labels = map[string]string{}
				}
				for k, x := range m {
					v.Labels[k] = x
				}
				return l.Driver.SetLabels(ctx, id, v.Labels)
			}
		}},
		{name: "a host's memory is more than free", area: "hosts", finding: "host lacks", tell: func(l *lie) {
			l.hosts = func(ctx context.Context) ([]hypervisor.HostInfo, error) {
				all, err := l.Driver.Hosts(ctx)
				for i := range all {
					all[i].FreeBytes = 2 * all[i].MemoryBytes
				}
				return all, err
			}
		}},
		{name: "placement by name", area: "hosts", finding: "scores are out of range or order", tell: func(l *lie) {
			l.recommend = func(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
				all, err := l.Driver.Recommend(ctx, r)
				for i := range all {
					all[i].Score = float64(i) / 10
				}
				return all, err
			}
		}},
	}
}

func stateMutants() []mutant {
	return []mutant{
		{name: "the token of create is ignored", area: "lifecycle", finding: "with the same token", tell: func(l *lie) {
			n := 0
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				if n++; n > 1 {
					s.Token = ""
				}
				return l.Driver.CreateVM(ctx, s)
			}
		}},
		{name: "delete leaves the disk", area: "lifecycle", finding: "DeleteDisks left the images", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				r.Disks = hypervisor.KeepDisks
				return l.Driver.DeleteVM(ctx, id, r)
			}
		}},
		{name: "KeepDisks deletes them", area: "lifecycle", finding: "KeepDisks removed images", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				r.Disks = hypervisor.DeleteDisks
				return l.Driver.DeleteVM(ctx, id, r)
			}
		}},
		{name: "a second delete succeeds", area: "lifecycle", finding: "Delete of a machine that is gone", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				t, err := l.Driver.DeleteVM(ctx, id, r)
				if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
					return did(vmRef(id))
				}
				return t, err
			}
		}},
		{name: "running machines are deleted", area: "lifecycle", finding: "Delete of a running machine without Force", tell: func(l *lie) {
			l.remove = func(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
				r.Force = true
				return l.Driver.DeleteVM(ctx, id, r)
			}
		}},
		{name: "Start is forgotten", area: "lifecycle", finding: "CreateVM with Start", tell: func(l *lie) {
			l.create = func(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
				s.Start = false
				return l.Driver.CreateVM(ctx, s)
			}
		}},
		{name: "suspend is power off", area: "power", finding: "want suspended", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				if r.Op == hypervisor.PowerOpSuspend {
					r.Op = hypervisor.PowerOpOff
				}
				return l.Driver.Power(ctx, id, r)
			}
		}},
		{name: "resume boots anew", area: "power", finding: "its memory was lost", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				v, err := l.Driver.GetVM(ctx, id)
				t, perr := l.Driver.Power(ctx, id, r)
				if err == nil && v.State == hypervisor.StateSuspended && perr == nil && r.Op == hypervisor.PowerOpResume {
					must(l.Driver.Power(ctx, id, hypervisor.PowerRequest{Op: hypervisor.PowerOpReset}))
				}
				return t, perr
			}
		}},
		{name: "pause does nothing", area: "power", finding: "want paused", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				if v, err := l.Driver.GetVM(ctx, id); err == nil && v.State == hypervisor.StateRunning && r.Op == hypervisor.PowerOpPause {
					return did(vmRef(id))
				}
				return l.Driver.Power(ctx, id, r)
			}
		}},
		{name: "off twice is an error", area: "power", finding: "PowerOff", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				if v, err := l.Driver.GetVM(ctx, id); err == nil && v.State == hypervisor.StateOff && r.Op == hypervisor.PowerOpOff {
					return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, vmRef(id), "it is off")
				}
				return l.Driver.Power(ctx, id, r)
			}
		}},
		{name: "resume starts what is off", area: "power", finding: "Resume of a machine that is off", tell: func(l *lie) {
			l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
				if v, err := l.Driver.GetVM(ctx, id); err == nil && v.State == hypervisor.StateOff && r.Op == hypervisor.PowerOpResume {
					r.Op = hypervisor.PowerOpStart
				}
				return l.Driver.Power(ctx, id, r)
			}
		}},
		{name: "memory changes are lost", area: "reconfigure", finding: "after Reconfigure", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				if ch.Name != "" {
					ch.MemoryBytes = 0
				}
				return l.Driver.Reconfigure(ctx, id, ch)
			}
		}},
		{name: "hot add waits for the next start", area: "reconfigure", finding: "after hot add", tell: func(l *lie) {
			l.reconfigure = func(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
				if v, err := l.Driver.GetVM(ctx, id); err == nil && v.State == hypervisor.StateRunning {
					return did(vmRef(id))
				}
				return l.Driver.Reconfigure(ctx, id, ch)
			}
		}},
		{name: "detach leaves the image", area: "disks", finding: "DetachDisk with DeleteDisks left", tell: func(l *lie) {
			l.detachDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, _ hypervisor.DiskPolicy) (dtask, error) {
				return l.Driver.DetachDisk(ctx, id, d, hypervisor.KeepDisks)
			}
		}},
		{name: "grow does nothing", area: "disks", finding: "after GrowDisk", tell: func(l *lie) {
			l.growDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, n int64) (dtask, error) {
				if n < 8*hypervisor.MiB {
					return l.Driver.GrowDisk(ctx, id, d, n)
				}
				return did(d.Ref())
			}
		}},
		{name: "disks shrink", area: "disks", finding: "GrowDisk to less", tell: func(l *lie) {
			l.growDisk = func(ctx context.Context, id vmID, d hypervisor.DiskID, n int64) (dtask, error) {
				t, err := l.Driver.GrowDisk(ctx, id, d, n)
				if hypervisor.KindOf(err) == hypervisor.ErrInvalidArgument {
					return did(d.Ref())
				}
				return t, err
			}
		}},
		{name: "a used volume is deleted", area: "volumes", finding: "DeleteVolume of a machine's disk", tell: func(l *lie) {
			l.delVolume = func(ctx context.Context, id hypervisor.VolumeID) (dtask, error) {
				t, err := l.Driver.DeleteVolume(ctx, id)
				if hypervisor.KindOf(err) == hypervisor.ErrBusy {
					return did(id.Ref())
				}
				return t, err
			}
		}},
	}
}

func TestMutants(t *testing.T) {
	all := mutants()
	if len(all) < 25 {
		t.Fatalf("%d mutants", len(all))
	}
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.name] {
			t.Errorf("%q is there twice", m.name)
		}
		seen[m.name] = true
		run := func(t *testing.T) {
			var group hypervisor.TaskGroup // of the leaking mutant
			defer group.Close()
			b := bench{cfg: m.cfg, other: &fake.Config{}, wrap: func(d *fake.Driver) hypervisor.Driver {
				l := &lie{Driver: d}
				_ = d.As(context.Background(), hypervisor.Ref{}, &l.b)
				if m.tell == nil {
					leak(l, &group)
				} else {
					m.tell(l)
				}
				return l
			}}
			h := b.harness("")
			h.Only, h.Repeat = []string{m.area}, 3
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			found := hypervisortest.Check(ctx, h)
			if len(found) == 0 {
				t.Fatalf("the suite found nothing")
			}
			if !slices.ContainsFunc(found, func(f hypervisortest.Finding) bool {
				return strings.HasPrefix(f.Row+"/", m.area+"/") && strings.Contains(f.Text, m.finding)
			}) {
				t.Errorf("the suite found something else than %q:\n%v", m.finding, found)
			}
		}
		t.Run(m.name, func(t *testing.T) {
			if strings.HasPrefix(m.area, "contexts/") { // its rows wait, which costs nothing here
				synctest.Test(t, run)
			} else {
				run(t)
			}
		})
	}
}

// leak starts work that Close doesn't end.
func leak(l *lie, g *hypervisor.TaskGroup) {
	_, _ = g.Go(bg, "leak", func(ctx context.Context, _ func(tstate)) tstate {
		<-ctx.Done()
		return tstate{Err: ctx.Err()}
	})
}

type events = iter.Seq2[hypervisor.Event, error]
