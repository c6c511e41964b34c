package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// ListVMs implements hypervisor.Driver. One page holds all hosts. Each host
// gets a fixed number of whole-class queries, all hosts in parallel. A host
// that does not answer is an error, because a listing without its machines
// would mean that they are gone.
func (d *driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	hosts := d.hosts
	if q.Host != "" {
		h, err := d.host(q.Host)
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		hosts = []*host{h}
	}
	which := brief
	if q.Detail == hypervisor.DetailFull {
		which = allTables()
	}
	parts := make([][]hypervisor.VMInfo, len(hosts))
	err := d.each(ctx, hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		inv, err := readInventory(ctx, h, s, which, nil)
		if err != nil {
			return err
		}
		for _, id := range inv.machines() {
			r := inv.byID[id]
			n := parseNotes(r.settings.Strs("Notes"))
			planned := r.settings.Str("VirtualSystemType") == typePlanned
			switch {
			case n.Unfinished, planned && !n.Template: // somebody's import or migration in progress
			case n.Template != q.Templates:
			case q.Name != "" && r.settings.Str("ElementName") != q.Name:
			case q.Token != "" && n.Token != q.Token:
			default:
				parts[i] = append(parts[i], inv.info(id, q.Detail == hypervisor.DetailFull))
				if !planned {
					d.remember(hypervisor.VMID(id), h)
				}
			}
		}
		return nil
	})
	return hypervisor.VMPage{VMs: slices.Concat(parts...)}, err
}

// machine is what most operations read first.
type machine struct {
	d        *driver
	h        *host
	s        cim.Session
	id       hypervisor.VMID
	settings *cim.Instance
	system   *cim.Instance // nil for a planned machine
	snaps    []*cim.Instance
	notes    notes
	state    hypervisor.PowerState
	planned  bool
	fresh    bool // the operation makes the machine, and its undo removes it with all its parts
}

func (m *machine) name() string { return m.settings.Str("ElementName") }
func (m *machine) gen2() bool   { return m.settings.Str("VirtualSystemSubType") == generation2 }

// ref is the reference of the machine, settingsRef that of its settings.
func (m *machine) ref() cim.Ref {
	class := "Msvm_ComputerSystem"
	if m.planned {
		class = "Msvm_PlannedComputerSystem"
	}
	r := cim.NewRef(class, "CreationClassName", class, "Name", string(m.id))
	r.Server = m.h.name
	return r
}

func (m *machine) settingsRef() cim.Ref {
	return m.h.settingRef("Msvm_VirtualSystemSettingData", m.settings.Str("InstanceID"))
}

func (h *host) settingRef(class, instanceID string) cim.Ref {
	r := cim.NewRef(class, "InstanceID", instanceID)
	r.Server = h.name
	return r
}

// machine finds a machine: on the host that had it last, or otherwise on all.
// A planned one does not count unless it is a template.
func (d *driver) machine(ctx context.Context, id hypervisor.VMID) (*machine, error) {
	return d.find(ctx, id, false)
}

// find finds a machine. With unfinished it also finds a planned one that is
// left over from an import.
func (d *driver) find(ctx context.Context, id hypervisor.VMID, unfinished bool) (*machine, error) {
	notFound := func() error {
		return hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no machine with this ID on %s", strings.Join(d.cfg.Hosts, ", "))
	}
	if !guid.MatchString(string(id)) {
		return nil, notFound()
	}
	id = hypervisor.VMID(strings.ToUpper(string(id)))
	d.mu.Lock()
	last := d.home[id]
	d.mu.Unlock()
	if last != nil {
		s, err := last.session(ctx)
		if err != nil {
			return nil, err
		}
		m, err := d.read(ctx, last, s, id)
		if err != nil || m != nil && (!m.planned || m.notes.Template || unfinished) {
			return m, err
		}
		d.forget(id)
	}
	var mu sync.Mutex
	var found, planned *machine
	err := d.each(ctx, d.hosts, func(ctx context.Context, _ int, h *host, s cim.Session) error {
		m, err := d.read(ctx, h, s, id)
		if err != nil || m == nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		// In the middle of a migration the target has a planned machine with
		// the same ID.
		if m.planned {
			planned = m
		} else {
			found = m
		}
		return nil
	})
	if found == nil && planned != nil && (planned.notes.Template || unfinished && err == nil) {
		found = planned
	}
	if found != nil {
		d.remember(id, found.h)
		return found, nil
	}
	if err != nil {
		return nil, unsent(err)
	}
	return nil, notFound()
}

// read reads a machine from one host. It returns nil if there is none.
func (d *driver) read(ctx context.Context, h *host, s cim.Session, id hypervisor.VMID) (*machine, error) {
	for range 3 {
		inv, err := readInventory(ctx, h, s, []int{rowSettings, rowSystems}, only(id))
		if err != nil {
			return nil, err
		}
		r := inv.byID[string(id)]
		if r == nil || r.settings == nil {
			return nil, nil
		}
		m := &machine{d: d, h: h, s: s, id: id, settings: r.settings, system: r.system, snaps: inv.snapshot[string(id)],
			notes: parseNotes(r.settings.Strs("Notes")), state: state(r.system), planned: r.settings.Str("VirtualSystemType") == typePlanned}
		if m.system != nil || m.planned {
			return m, nil
		}
		// Between the two queries it was removed, or realized.
	}
	return nil, nil
}

// only narrows the tables of an inventory to one machine.
func only(id hypervisor.VMID) func(t int) []string {
	return func(t int) []string {
		switch t {
		case rowSettings:
			return []string{"VirtualSystemIdentifier = " + cim.Quote(string(id))}
		case rowSystems:
			return []string{"Name = " + cim.Quote(string(id))}
		case rowGuestNet:
			return []string{"InstanceID LIKE " + cim.LikePrefix(`Microsoft:GuestNetwork\`+string(id))}
		case rowCurrent:
			return nil // references can't be matched by a prefix
		}
		return []string{"InstanceID LIKE " + cim.LikePrefix("Microsoft:"+string(id))}
	}
}

// GetVM implements hypervisor.Driver. In addition to a listing, it asks the
// image service about every disk.
func (d *driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	inv, err := readInventory(ctx, m.h, m.s, allTables(), only(m.id))
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	r := inv.byID[string(m.id)]
	if r == nil || r.settings == nil || r.system == nil && !m.planned {
		return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "the machine is gone")
	}
	v := inv.info(string(m.id), true)
	return v, d.measure(ctx, m.h, m.s, v.Disks)
}

// resources reads the resources of a machine.
func (m *machine) resources(ctx context.Context) (*record, *inventory, error) {
	inv, err := readInventory(ctx, m.h, m.s, allTables(), only(m.id))
	if err != nil {
		return nil, nil, err
	}
	return inv.record(string(m.id)), inv, nil
}

// startable refuses templates.
func (m *machine) startable() error {
	if m.notes.Template {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, m.id.Ref(), "this is a template; deploy a machine from it, or turn it back with MarkVM")
	}
	return nil
}

// modifyNow changes the machine's settings.
func (m *machine) modifyNow(ctx context.Context, kv ...any) error {
	e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", append([]any{"InstanceID", m.settings.Str("InstanceID")}, kv...)...)
	return m.ask(ctx, m.set(e), m.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
}

// ask calls a method that changes the machine, and waits for its job without
// reporting progress.
func (m *machine) ask(ctx context.Context, look trace, ref cim.Ref, method string, args ...cim.Arg) error {
	return m.d.persist(ctx, method, func() error {
		r, err := m.request(look, ref, method, args...).send(ctx)
		if err != nil {
			return err
		}
		return m.d.finish(ctx, m.s, r)
	})
}

// finish waits for the job of a result without reporting progress.
func (d *driver) finish(ctx context.Context, s cim.Session, r *cim.Result) error {
	if job, ok := r.Job(); ok {
		return cim.WaitJob(ctx, s, job, d.poll, nil)
	}
	return nil
}

// SetLabels implements hypervisor.Labeler.
func (d *driver) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	unlock, err := d.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := d.machine(ctx, id)
	if err != nil {
		return err
	}
	m.notes.Labels = labels
	return m.modifyNow(ctx, "Notes", m.notes.strings())
}

// byToken finds the machine that carries a token.
func (d *driver) byToken(ctx context.Context, token string) (hypervisor.DriverTask, error) {
	if token == "" {
		return nil, nil
	}
	for _, templates := range []bool{false, true} {
		p, err := d.ListVMs(ctx, hypervisor.VMQuery{Detail: hypervisor.DetailBrief, Templates: templates, Token: token})
		if err != nil {
			return nil, err
		}
		if len(p.VMs) > 0 {
			return hypervisor.DoneTask(hypervisor.TaskID("token:"+token), hypervisor.TaskState{Result: p.VMs[0].ID.Ref()}), nil
		}
	}
	return nil, nil
}

// isGone reports whether an error means that the object does not exist.
func isGone(err error) bool {
	return cim.KindOf(err) == cim.NotFound || errors.Is(err, hypervisor.ErrNotFound)
}
