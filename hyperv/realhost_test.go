package hyperv

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// TestRealHost runs the suite on the hosts of ANYVISOR_HYPERV_URL, which is as
// for hypervisor.Open, and logs answers to what is not known of real hosts. It
// changes only machines that it makes, whose names begin with "av-". With
// ANYVISOR_RECORD, a folder, it keeps the requests and replies of the answers
// there, without names of users and hosts. Without a URL it tries itself on
// the simulator.
func TestRealHost(t *testing.T) {
	lent := hypervisortest.Lent{Driver: "hyperv", URL: os.Getenv("ANYVISOR_HYPERV_URL")}
	if lent.URL == "" {
		s := startSite(t, hvsim.Config{})
		create(t, openSite(t, s), small("of somebody else"))
		u := url.URL{Scheme: "hyperv", User: url.UserPassword("Administrator", s.sim.Password()), Host: s.config.Hosts[0], RawQuery: "insecure=true&pollfirst=1ms&polllast=10ms"}
		lent.URL, lent.Areas, lent.Trial = u.String(), []string{"labels"}, true
	}
	hypervisortest.RunLent(t, lent)
	u, err := url.Parse(lent.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := parseURL(u)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, cfg, os.Getenv("ANYVISOR_RECORD"), lent.Trial)
}

// questioner answers questions about one host, on a machine of its own.
type questioner struct {
	d     *driver
	h     *host
	s     cim.Session
	c     *hypervisor.Client
	pause time.Duration
}

// questions are those whose answers decide whether the simulator is right.
// Each one's answer is a text.
var questions = []struct {
	name string
	ask  func(ctx context.Context, q *questioner) string
}{
	{"01 AutomaticSnapshotsEnabled in a listing, by build", func(ctx context.Context, q *questioner) string {
		return fmt.Sprintf("build %d: %s", q.h.build(), q.count(ctx, cim.Virtualization, "SELECT InstanceID, AutomaticSnapshotsEnabled FROM Msvm_VirtualSystemSettingData"))
	}},
	{"02 a missing class, a missing namespace", func(ctx context.Context, q *questioner) string {
		return q.count(ctx, cim.Virtualization, "SELECT * FROM Msvm_NoSuchClass") + "; " + q.count(ctx, "root/nosuch", "SELECT * FROM Any")
	}},
	{"03 type of ConsistencyLevel", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-3", func(m *machine) (out string) {
			for _, v := range []any{uint8(1), uint16(1)} {
				e := cim.NewEmbedded("Msvm_VirtualSystemSnapshotSettingData", "ConsistencyLevel", v)
				out += fmt.Sprintf("%T: %s; ", v, q.invoke(ctx, q.h.snapshots(), "CreateSnapshot", cim.Arg{Name: "AffectedSystem", Value: m.ref()},
					cim.Arg{Name: "SnapshotSettings", Value: e}, cim.Arg{Name: "SnapshotType", Value: uint16(2)}))
			}
			return out
		})
	}},
	{"04 special characters in embedded instances, as escaped text", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-4", func(m *machine) (out string) {
			for _, name := range []string{"av-a&amp;b", "av-a&#38;b", "av-a&lt;b", "av-a&#60;b"} {
				text := `<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"><PROPERTY NAME="InstanceID" TYPE="string"><VALUE>` + m.settings.Str("InstanceID") +
					`</VALUE></PROPERTY><PROPERTY NAME="ElementName" TYPE="string"><VALUE>` + name + `</VALUE></PROPERTY></INSTANCE>`
				out += fmt.Sprintf("%s: %s; ", name, q.invoke(ctx, q.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: text}))
			}
			return out
		})
	}},
	{"05 how CIM_DataFile writes and finds names", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-5", func(m *machine) string {
			p := q.image(ctx, m)
			f, err := fileOf(ctx, q.s, p)
			if f == nil {
				return fmt.Sprintf("%s: not found (%v)", p, err)
			}
			return fmt.Sprintf("%s: %s", p, f.Str("Name"))
		})
	}},
	{"06 files of an export, and a realization without validation", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-6", func(m *machine) string {
			dir := join(join(q.h.vmPath, "anyvisor"), randomHex(8))
			e := cim.NewEmbedded("Msvm_VirtualSystemExportSettingData", "CopyVmStorage", false, "CopyVmRuntimeInformation", false, "CreateVmExportSubdirectory", false, "CopySnapshotConfiguration", exportNoSnapshots)
			out := q.invoke(ctx, q.h.management(), "ExportSystemDefinition", cim.Arg{Name: "ComputerSystem", Value: m.ref()}, cim.Arg{Name: "ExportDirectory", Value: dir}, cim.Arg{Name: "ExportSettingData", Value: e})
			folders, err := inFolder(ctx, q.s, "Win32_Directory", dir)
			for _, f := range folders {
				files, ferr := inFolder(ctx, q.s, "CIM_DataFile", f.Str("Name"))
				out += fmt.Sprintf("; %s: %d files %v", f.Str("Name"), len(files), ferr)
				for _, x := range files {
					out += " " + base(x.Str("Name"))
				}
			}
			file := join(join(dir, "Virtual Machines"), string(m.id)+".vmcx")
			r, ierr := cim.Call(ctx, q.s, q.h.management(), "ImportSystemDefinition", cim.Arg{Name: "SystemDefinitionFile", Value: file}, cim.Arg{Name: "SnapshotFolder", Value: ""}, cim.Arg{Name: "GenerateNewSystemIdentifier", Value: true})
			if ierr == nil {
				if planned := r.Out.Get("ImportedSystem").Refs(); len(planned) == 1 {
					out += "; realized without validation: " + q.invoke(ctx, q.h.management(), "RealizePlannedSystem", cim.Arg{Name: "PlannedSystem", Value: planned[0]})
					for _, class := range []string{"Msvm_ComputerSystem", "Msvm_PlannedComputerSystem"} {
						_ = q.invoke(ctx, q.h.management(), "DestroySystem", cim.Arg{Name: "AffectedSystem", Value: cim.NewRef(class, "CreationClassName", class, "Name", planned[0].Key("Name"))})
					}
				}
			}
			return fmt.Sprintf("%s; import %v, folders %v, removal %v", out, ierr, err, q.d.removeExport(ctx, q.s, file))
		})
	}},
	{"07 images after the deletion of a machine with checkpoints", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-7", func(m *machine) (out string) {
			for n := range 2 {
				if _, err := q.c.VM(m.id).CreateSnapshot(ctx, fmt.Sprint("s", n), nil).Wait(ctx); err != nil {
					return err.Error()
				}
			}
			now, err := q.d.read(ctx, q.h, q.s, m.id)
			if err != nil || now == nil {
				return fmt.Sprint(err)
			}
			images, err := now.allImages(ctx)
			out = fmt.Sprintf("%d images (%v); destroy: %s", len(images), err, q.invoke(ctx, q.h.management(), "DestroySystem", cim.Arg{Name: "AffectedSystem", Value: m.ref()}))
			for second := range 60 {
				var left []string
				for _, p := range images {
					ref := cim.Ref{Namespace: cim.CIMV2, Class: "CIM_DataFile", Keys: []cim.Key{{Name: "Name", Value: p}}}
					if r, err := q.s.Invoke(ctx, ref, "Delete"); err == nil && r.Return != 0 {
						out += fmt.Sprintf("; %d s, %s: %d", second, base(p), r.Return)
						left = append(left, p)
					}
				}
				if images = left; len(images) == 0 {
					return out + fmt.Sprintf("; all gone after %d s", second)
				}
				time.Sleep(q.pause)
			}
			return out
		})
	}},
	{"08 cluster moves by priority", func(ctx context.Context, q *questioner) string {
		if q.h.cluster == "" {
			return "the host is in no cluster"
		}
		return "cluster " + q.h.cluster + ": make a role of priority 1000 and one of 2000, move both with Move-ClusterVirtualMachineRole, and look which was saved"
	}},
	{"09 the host's own check of a migration", func(ctx context.Context, q *questioner) string {
		if len(q.d.hosts) < 2 {
			return "needs a URL with two hosts"
		}
		return q.with(ctx, "av-question-9", func(m *machine) string {
			r, err := q.c.VM(m.id).CheckMigrate(ctx, hypervisor.MigrateOptions{Host: q.d.hosts[1].id})
			return fmt.Sprintf("%+v, %v", r, err)
		})
	}},
	{"10 listeners", func(ctx context.Context, q *questioner) string {
		name, _, _ := strings.Cut(string(q.h.id), ":")
		return fmt.Sprintf("%d answers: %v; %d answers: %v", portHTTP, listens(ctx, name, portHTTP), portHTTPS, listens(ctx, name, portHTTPS))
	}},
	{"11 refusals of settings that a second try does not get", func(ctx context.Context, q *questioner) string {
		return q.with(ctx, "av-question-11", func(m *machine) string {
			refused := map[uint32]int{}
			for n := range 20 {
				e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", m.settings.Str("InstanceID"), "Notes", []string{strconv.Itoa(n)})
				r, err := cim.Call(ctx, q.s, q.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
				if err == nil {
					err = q.d.finish(ctx, q.s, r)
				}
				if err != nil {
					refused[cim.ReturnOf(err)]++
				}
			}
			return fmt.Sprintf("20 calls, refused by code: %v", refused)
		})
	}},
}

func (q *questioner) count(ctx context.Context, ns, wql string) string {
	rows, err := cim.Collect(q.s.Query(ctx, ns, wql))
	return fmt.Sprintf("%d rows, %v", len(rows), err)
}

func (q *questioner) invoke(ctx context.Context, ref cim.Ref, method string, args ...cim.Arg) string {
	r, err := q.s.Invoke(ctx, ref, method, args...)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d, %v", r.Return, q.d.finish(ctx, q.s, r))
}

func (q *questioner) image(ctx context.Context, m *machine) string {
	disks, err := m.disks(ctx)
	if err != nil || len(disks) == 0 {
		return fmt.Sprint(err)
	}
	return disks[0].Str("HostResource")
}

// with makes a machine for a question and removes it.
func (q *questioner) with(ctx context.Context, name string, f func(m *machine) string) string {
	vm, err := q.c.CreateVM(ctx, hypervisor.VMSpec{Name: name, MemoryBytes: 512 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}},
		Placement: hypervisor.Placement{Host: q.h.id}}).Wait(ctx)
	if err != nil {
		return err.Error()
	}
	defer func() {
		_, _ = vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx) // the machine of question 7 is gone
	}()
	m, err := q.d.machine(ctx, vm.ID())
	if err != nil {
		return err.Error()
	}
	return f(m)
}

// ask logs the answers of the first host, and keeps what was sent and
// received for each.
func ask(t *testing.T, cfg Config, folder string, trial bool) {
	ctx := t.Context()
	var mu sync.Mutex
	var said strings.Builder
	cfg.record = func(request string, reply []byte) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&said, "%s\n\n%s\n\n", request, reply)
	}
	d, err := connect(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := hypervisor.New(ctx, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := d.hosts[0].session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	q := &questioner{d: d, h: d.hosts[0], s: s, c: c, pause: time.Second}
	if trial {
		q.pause, folder = 10*time.Millisecond, t.TempDir()
	}
	for _, k := range questions {
		said.Reset()
		answer := k.ask(ctx, q)
		t.Logf("%s: %s", k.name, answer)
		if answer == "" {
			t.Errorf("question %s has no answer", k.name)
		}
		if folder == "" {
			continue
		}
		mu.Lock()
		text := withoutNames(said.String(), cfg, d.hosts[0].name)
		mu.Unlock()
		file := filepath.Join(folder, k.name[:2]+".txt")
		if err := os.WriteFile(file, []byte(k.name+"\n"+withoutNames(answer, cfg, d.hosts[0].name)+"\n\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if trial {
			for _, secret := range []string{string(cfg.Password), cfg.Hosts[0], d.hosts[0].name} {
				if strings.Contains(text, secret) {
					t.Errorf("%s has %q", file, secret)
				}
			}
		}
	}
	if trial {
		for i, err := range c.VMs(ctx, nil) {
			if err != nil || strings.HasPrefix(i.Name, "av-") {
				t.Errorf("left over: %q, %v", i.Name, err)
			}
		}
	}
}

// withoutNames takes the names of hosts and users, and the password, out of a
// text.
func withoutNames(text string, cfg Config, computer string) string {
	pairs := []string{computer, "HOST", strings.ToLower(computer), "host"}
	for n, h := range cfg.Hosts {
		name, _, _ := strings.Cut(h, ":")
		pairs = append(pairs, h, fmt.Sprint("ADDRESS", n), name, fmt.Sprint("ADDRESS", n))
	}
	for _, s := range append(strings.FieldsFunc(cfg.Username, func(r rune) bool { return r == '\\' || r == '@' }), string(cfg.Password)) {
		if s != "" {
			pairs = append(pairs, s, "USER")
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}
