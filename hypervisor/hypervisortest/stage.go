package hypervisortest

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// stage is the object of verbs: a machine that is off with whatever a trial
// has prepared, over the Client whose connection breaks.
type stage struct {
	*env
	name string            // of the machine; what verbs make has names that begin with it
	vm   *hypervisor.VM    // of c
	up   int               // the guest's counter when it was started; 0 if it was not
	was  hypervisor.VMInfo // before anything was prepared
	// labeled: the Client has labels.
	labeled bool

	// Arguments for verbs; the zero value where the trial has not prepared
	// them.
	snap        hypervisor.SnapshotID
	tmpl        hypervisor.TemplateID
	at, host    hypervisor.HostID // the machine's host, and one as a destination
	hostName    string
	store       hypervisor.DatastoreID // a datastore as a destination
	disk        hypervisor.DiskID
	diskBytes   int64
	image       hypervisor.VolumeID // the image of that disk
	nic         hypervisor.NICID
	device      hypervisor.DeviceID
	preparation hypervisor.DevicePreparation
	attachment  hypervisor.AttachmentID
	volume      hypervisor.VolumeID
	task        hypervisor.TaskID
	work        *hypervisor.Task[*hypervisor.VM]

	undo    []func() error           // run when the stage is removed
	known   map[hypervisor.VMID]bool // to be removed then
	missing string                   // what the backend lacks for the trial
}

// sure returns the machine over the Client that makes, reads and removes
// objects.
func (s *stage) sure() *hypervisor.VM { return s.calm().VM(s.vm.ID()) }

// dropNoted deletes the machine's snapshots that notes name as left, like a
// program would. Any of them may be about to vanish by itself.
func (s *stage) dropNoted(notes []string) {
	s.Helper()
	if len(notes) == 0 {
		return
	}
	all, err := s.sure().Snapshots(s.ctx)
	s.ok(err, "Snapshots")
	for _, p := range all {
		if strings.Contains(strings.Join(notes, "\n"), string(p.ID)) {
			if err := done(s.ctx, s.sure().Snapshot(p.ID).Delete(s.ctx, nil)); !errors.Is(err, hypervisor.ErrNotFound) {
				s.ok(err, "delete snapshot %s, which a note names", p.ID)
			}
		}
	}
}

func (s *stage) made() string                   { return s.name + "-made" }
func (s *stage) token() string                  { return "token-" + s.name }
func (s *stage) snapshot() *hypervisor.Snapshot { return s.vm.Snapshot(s.snap) }
func (s *stage) template() *hypervisor.Template { return s.c.Template(s.tmpl) }

func (s *stage) clone(ctx context.Context, o hypervisor.CloneOptions) error {
	o.Token = s.token()
	return done(ctx, s.vm.Clone(ctx, s.made(), &o))
}

func (s *stage) move(ctx context.Context, to hypervisor.HostID, ds hypervisor.DatastoreID) error {
	return done(ctx, s.vm.Migrate(ctx, hypervisor.MigrateOptions{Host: to, Storage: ds}))
}

func (s *stage) createVolume(ctx context.Context, from hypervisor.VolumeID) error {
	v := hypervisor.VolumeSpec{Name: s.made(), Datastore: s.store, SizeBytes: 16 * hypervisor.MiB, From: from}
	if from != "" {
		v.SizeBytes = s.diskBytes
	}
	return done(ctx, s.c.CreateVolume(ctx, v))
}

// calm returns the Client whose connection is not broken.
func (e *env) calm() *hypervisor.Client {
	if e.quiet != nil {
		return e.quiet
	}
	return e.c
}

// described is the description of a stage's machine.
const described = "as it was"

// newStage makes the machine. It has a description, and labels where the
// Client has any, so that their loss shows.
func (e *env) newStage(part string, spec func(name string) hypervisor.VMSpec) *stage {
	e.Helper()
	s := &stage{env: e, name: e.name(part), labeled: e.has(capability.Labels), known: map[hypervisor.VMID]bool{}}
	if spec == nil {
		spec = e.Spec
	}
	v := spec(s.name)
	v.Description = described
	if s.labeled {
		v.Labels = map[string]string{"old": "label"}
	}
	vm, err := e.calm().CreateVM(e.ctx, v).Wait(e.ctx)
	e.ok(err, "CreateVM(%q)", v.Name)
	s.vm, s.known[vm.ID()] = e.c.VM(vm.ID()), true
	s.rewrite("kept")
	s.was = s.look()
	i := s.was
	if len(i.Disks) > 0 {
		s.disk, s.diskBytes, s.image = i.Disks[0].ID, i.Disks[0].SizeBytes, i.Disks[0].Volume
		s.store = i.Disks[0].Datastore
	}
	if len(i.NICs) > 0 {
		s.nic = i.NICs[0].ID
	}
	return s
}

func (s *stage) look() hypervisor.VMInfo {
	s.Helper()
	i, err := s.sure().Info(s.ctx)
	s.ok(err, "Info(%s)", s.vm.ID())
	return i
}

// The rest are preparations of trials.

func running(s *stage) {
	s.Helper()
	s.ok(done(s.ctx, s.sure().Start(s.ctx)), "Start")
	if s.Break != nil && s.Break.NoBoot {
		return
	}
	s.booted(s.vm)
	s.up = s.uptime(s.vm)
}

func paused(s *stage)    { running(s); s.ok(done(s.ctx, s.sure().Pause(s.ctx)), "Pause") }
func suspended(s *stage) { running(s); s.ok(done(s.ctx, s.sure().Suspend(s.ctx)), "Suspend") }

func snapshotted(s *stage) { s.keepSnapshot("snap", nil) }

// forked makes a snapshot with a child, and content that is in neither.
func forked(s *stage) {
	snapshotted(s)
	s.rewrite("later")
	s.ok(done(s.ctx, s.sure().CreateSnapshot(s.ctx, "child", nil)), "CreateSnapshot")
	s.rewrite("last")
}

// rewritten gives the machine other content than its snapshot has.
func rewritten(s *stage) { snapshotted(s); s.rewrite("later") }

func (s *stage) rewrite(content string) {
	s.Helper()
	if s.WriteDisk != nil {
		s.ok(s.WriteDisk(s.ctx, s.vm.ID(), content), "write to the disk")
	}
}

func withMemory(s *stage) {
	running(s)
	s.keepSnapshot("snap", &hypervisor.SnapshotOptions{Memory: true})
	s.ok(done(s.ctx, s.sure().PowerOff(s.ctx)), "PowerOff")
}

func (s *stage) keepSnapshot(name string, o *hypervisor.SnapshotOptions) {
	s.Helper()
	snap, err := s.sure().CreateSnapshot(s.ctx, name, o).Wait(s.ctx)
	s.ok(err, "CreateSnapshot")
	s.snap = snap.ID()
}

func marked(s *stage) {
	s.Helper()
	t, err := s.sure().MarkTemplate(s.ctx).Wait(s.ctx)
	s.ok(err, "MarkTemplate")
	s.tmpl = t.ID()
}

func secondDisk(s *stage) {
	s.Helper()
	d, err := s.sure().AttachDisk(s.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(s.ctx)
	s.ok(err, "AttachDisk")
	s.disk = d.ID
}

func protected(s *stage) {
	s.Helper()
	s.ok(done(s.ctx, s.sure().SetRestartPriority(s.ctx, hypervisor.RestartHigh)), "SetRestartPriority")
}

// otherHost finds a host as a destination.
func otherHost(s *stage) {
	s.Helper()
	s.at = s.look().Host
	all, err := hypervisor.Collect(s.calm().Hosts(s.ctx))
	s.ok(err, "Hosts")
	i := slices.IndexFunc(all, func(h hypervisor.HostInfo) bool { return h.State == hypervisor.HostUp && h.ID != s.at })
	if i < 0 {
		s.Fatalf("migration is declared, and there is no second host")
	}
	s.host, s.hostName = all[i].ID, all[i].Name
}

// otherStore finds a datastore as a destination. The machine's host reaches
// it, or the destination host does.
func otherStore(s *stage) {
	s.Helper()
	now := s.look()
	from := now.Host
	if s.host != "" {
		from = s.host
	}
	for ds, err := range s.calm().Datastores(s.ctx) {
		s.ok(err, "Datastores")
		if ds.ID != now.Disks[0].Datastore && ds.Accessible && (len(ds.Hosts) == 0 || from == "" || slices.Contains(ds.Hosts, from)) {
			s.store = ds.ID
			return
		}
	}
	s.Fatalf("a move of storage is declared, and there is no second datastore for %s", now.Disks[0].Datastore)
}

// maintained puts the machine's host into maintenance.
func maintained(s *stage) {
	s.Helper()
	otherHost(s)
	h := s.calm().Host(s.at)
	s.ok(done(s.ctx, h.EnterMaintenance(s.ctx, &hypervisor.MaintenanceOptions{Evacuate: true})), "EnterMaintenance")
	leaves(s)
}

// leaves makes the machine's host leave maintenance when the stage is
// removed.
func leaves(s *stage) {
	h := s.calm().Host(s.at)
	s.undo = append(s.undo, func() error { return done(s.ctx, h.ExitMaintenance(s.ctx)) })
}

func attachedDevice(r func(*Backend) hypervisor.DeviceRequest) func(*stage) {
	return func(s *stage) {
		s.Helper()
		a, err := s.sure().AttachDevice(s.ctx, r(s.Backend)).Wait(s.ctx)
		s.ok(err, "AttachDevice")
		s.attachment = a.ID
	}
}

func keptVolume(s *stage) {
	s.Helper()
	v, err := s.calm().CreateVolume(s.ctx, hypervisor.VolumeSpec{Name: s.name + "-volume", Datastore: s.store, SizeBytes: 16 * hypervisor.MiB}).Wait(s.ctx)
	s.ok(err, "CreateVolume")
	s.volume = v
}

// functions finds a device whose number of virtual functions can be set.
func functions(s *stage) {
	d, ok := s.pick(func(d hypervisor.DeviceInfo) bool { return d.MaxVFs > 0 && len(d.UsedBy) == 0 })
	if !ok {
		return
	}
	n := min(2, d.MaxVFs)
	if d.VFs == n {
		n--
	}
	s.preparation.VFs = &n
	s.restore(hypervisor.DevicePreparation{VFs: &d.VFs})
}

// assignable finds a device that can be given to machines, and given back.
func assignable(s *stage) {
	no, yes := false, true
	if _, ok := s.pick(func(d hypervisor.DeviceInfo) bool {
		return d.Assignable && d.Kind == hypervisor.DeviceKindPCI
	}); ok {
		s.preparation.Passthrough = &no
		s.restore(hypervisor.DevicePreparation{Passthrough: &yes})
	}
}

// givenBack is like assignable, after the device was given back.
func givenBack(s *stage) {
	assignable(s)
	if s.missing != "" {
		return
	}
	s.ok(done(s.ctx, s.calm().PrepareDevice(s.ctx, s.device, s.preparation)), "PrepareDevice")
	yes := true
	s.preparation = hypervisor.DevicePreparation{Passthrough: &yes}
}

func (s *stage) pick(fits func(hypervisor.DeviceInfo) bool) (hypervisor.DeviceInfo, bool) {
	s.Helper()
	all, err := hypervisor.Collect(s.calm().Devices(s.ctx, nil))
	s.ok(err, "Devices")
	i := slices.IndexFunc(all, fits)
	if i < 0 {
		s.missing = "no device here can be prepared so"
		return hypervisor.DeviceInfo{}, false
	}
	s.device = all[i].ID
	return all[i], true
}

func (s *stage) restore(p hypervisor.DevicePreparation) {
	s.undo = append(s.undo, func() error { return done(s.ctx, s.calm().PrepareDevice(s.ctx, s.device, p)) })
}

// newFullStage prepares every argument that a verb may have, as far as the
// Client declares it.
func (e *env) newFullStage() *stage {
	e.Helper()
	s := e.newStage("full", nil)
	hosts, err := hypervisor.Collect(e.calm().Hosts(e.ctx))
	e.ok(err, "Hosts")
	s.at, s.host, s.hostName = s.look().Host, hosts[0].ID, hosts[0].Name
	for _, p := range []struct {
		k capability.Name
		f func(*stage)
	}{
		{capability.Templates, besideTemplate}, {capability.MigrateLive, otherHost},
		{capability.SnapshotDisk, snapshotted}, {capability.VolumeManage, keptVolume},
	} {
		if e.has(p.k) {
			p.f(s)
		}
	}
	return s
}

// besideTemplate makes a template beside the machine.
func besideTemplate(s *stage) {
	s.Helper()
	vm, err := s.calm().CreateVM(s.ctx, s.Spec(s.name+"-template")).Wait(s.ctx)
	s.ok(err, "CreateVM")
	t := stage{env: s.env, vm: vm}
	marked(&t)
	s.tmpl = t.tmpl
}
