package fake

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// defaultPriority applies to machines without a priority of their own.
const defaultPriority = hypervisor.RestartMedium

// restartOrder is the order in which machines are restarted. RestartNever is
// not in it.
var restartOrder = []hypervisor.RestartPriority{hypervisor.RestartHigh, hypervisor.RestartMedium, hypervisor.RestartLow, hypervisor.RestartBestEffort}

// HA lists the pools of the hosts. Hosts without a pool form one without a
// name.
func (d *Driver) HA(ctx context.Context) ([]hypervisor.HAInfo, error) {
	if err := d.read(ctx, op.HAList, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.HighAvailability, hypervisor.Ref{}, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	var out []hypervisor.HAInfo
	for _, h := range b.st.Hosts {
		if !slices.ContainsFunc(out, func(i hypervisor.HAInfo) bool { return i.Pool == h.Pool }) {
			out = append(out, hypervisor.HAInfo{Pool: h.Pool, Name: string(h.Pool), Enabled: b.cfg.HA, DefaultPriority: defaultPriority})
		}
	}
	return out, nil
}

// Availability reads the availability of one machine.
func (d *Driver) Availability(ctx context.Context, id hypervisor.VMID) (hypervisor.Availability, error) {
	if err := d.read(ctx, op.VMAvailability, id.Ref()); err != nil {
		return hypervisor.Availability{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	if err := b.require(capability.HighAvailability, m.ref(), m.ref()); err != nil {
		return hypervisor.Availability{}, err
	}
	p := b.priority(m)
	return hypervisor.Availability{Priority: p, Inherited: m.Restart == "", Protected: b.cfg.HA && m.active() && p != hypervisor.RestartNever}, nil
}

func (b *Backend) priority(m *vm) hypervisor.RestartPriority { return or(m.Restart, defaultPriority) }

// SetRestartPriority takes effect at the next failure of a host.
func (d *Driver) SetRestartPriority(ctx context.Context, id hypervisor.VMID, p hypervisor.RestartPriority) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.VMSetRestartPriority, id.Ref(), p)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.HighAvailability, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.VMSetRestartPriority, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		m.Restart = p
		b.emit(hypervisor.EventVMChanged, m, "restart priority")
		return nil
	}})
}

// failOver restarts the machines of a host that went down on other hosts,
// those of high priority first. They boot anew. A machine that no host can
// take, that a task works on, or that holds a device of its host, stays where
// it was.
func (b *Backend) failOver(down *host) {
	vms := slices.DeleteFunc(b.running(down.ID), func(m *vm) bool {
		return !slices.Contains(restartOrder, b.priority(m)) || m.bound() || b.free(vmKey(m.ID), false) != nil
	})
	slices.SortStableFunc(vms, func(x, y *vm) int {
		return slices.Index(restartOrder, b.priority(x)) - slices.Index(restartOrder, b.priority(y))
	})
	for _, m := range vms {
		for _, h := range b.byRoom() {
			if h.ID == down.ID || h.Pool != down.Pool || !b.connected(m, h.ID) || b.room(m, h.ID) != nil {
				continue
			}
			b.halt(m)
			m.Host = h.ID
			if b.start(m) == nil {
				break
			}
		}
	}
}

// connected reports whether a host reaches a machine's disks and networks.
func (b *Backend) connected(m *vm, h hypervisor.HostID) bool {
	for _, d := range m.Disks {
		if v := b.st.Volumes[d.Volume]; v != nil {
			if s, err := b.datastore(v.Datastore); err != nil || !reaches(s.Hosts, h) {
				return false
			}
		}
	}
	for _, n := range m.NICs {
		if x, err := b.network(n.Network); err != nil || !reaches(x.Hosts, h) {
			return false
		}
	}
	return true
}
