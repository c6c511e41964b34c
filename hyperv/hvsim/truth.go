package hvsim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// WriteMemory changes the RAM of a running machine like its guest would.
func (s *Sim) WriteMemory(id, what, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	m := s.machineByID(id)
	if m == nil || m.memory == nil {
		return fmt.Errorf("hvsim: machine %s is not there or has no memory", id)
	}
	m.memory[what] = value
	return nil
}

// Memory returns the RAM of a running, paused or saved machine, or nil if it is off or does not exist.
func (s *Sim) Memory(id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	if m := s.machineByID(id); m != nil {
		return maps.Clone(m.memory)
	}
	return nil
}

// Fact is the true state of a machine behind the API.
type Fact struct {
	ID, Name, Host string
	State          int // EnabledState
	Planned        bool
	Disks          []string // current files, leaf of each chain
	Checkpoints    int
	KVP            map[string]string // host-to-guest items
	// Settings are those of the machine, of its resources and of its checkpoints, one line each.
	Settings []string
}

// told lists the properties in Fact.Settings: those that a client sets or requests.
var told = []string{"ElementName", "Notes", "UserSnapshotType", "AutomaticSnapshotsEnabled", "AutomaticShutdownAction", "LowMmioGapSize", "HighMmioGapSize", "IsSaved",
	"VirtualQuantity", "Reservation", "Limit", "DynamicMemoryEnabled", "ResourceSubType", "AddressOnParent", "HostResource", "StaticMacAddress", "IOVOffloadWeight"}

// lines formats a configuration for Fact.Settings.
func (c *config) lines(of string) []string {
	var out []string
	for _, i := range append([]*cimx.Instance{c.sd}, c.res...) {
		l := of + " " + i.Class.Name
		for _, p := range told {
			if i.Class.Prop(p) >= 0 && i.Get(p) != nil {
				l += fmt.Sprintf(" %s=%v", p, i.Get(p))
			}
		}
		if d := c.h.disk(hostResource(i)); d != nil {
			l += fmt.Sprintf(" bytes=%d", d.size)
		}
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// DeviceStates returns for every PCI Express function of the host who has it and into how many partitions it is split.
func (h *Host) DeviceStates() []string {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.sim.tick()
	var out []string
	for _, p := range h.gpus {
		l := fmt.Sprintf("%s disabled=%t dismounted=%t assigned=%t", p.dev.Location, p.disabled, p.dismount, p.setting != nil)
		if p.partition != nil {
			l += fmt.Sprintf(" partitions=%d", p.partition.Uint("PartitionCount"))
		}
		out = append(out, l)
	}
	return out
}

// Machines returns the facts of every machine of every host, in order of creation by host.
func (s *Sim) Machines() []Fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	var out []Fact
	for _, h := range s.hosts {
		for _, m := range h.order {
			f := Fact{ID: m.id, Name: m.name(), Host: h.cfg.Name, State: m.state(), Planned: m.planned, Checkpoints: len(m.snaps), KVP: maps.Clone(m.kvp)}
			for _, d := range m.cfg.disks() {
				f.Disks = append(f.Disks, hostResource(d))
			}
			f.Settings = m.cfg.lines(fmt.Sprintf("machine on %d", slices.Index(m.snaps, m.parent)))
			for n, s := range m.snaps {
				f.Settings = append(f.Settings, s.cfg.lines(fmt.Sprintf("checkpoint %d on %d", n, slices.Index(m.snaps, s.parent)))...)
			}
			out = append(out, f)
		}
	}
	return out
}

// Replication is what a machine reports about Hyper-V Replica [D: Msvm_ComputerSystem.ReplicationState, ReplicationHealth,
// ReplicationMode].
type Replication struct {
	State, Health, Mode uint16
	Last                time.Time // of the last replication; zero for none
}

// SetReplication sets what a machine reports about Hyper-V Replica. The simulator does not replicate.
func (s *Sim) SetReplication(id string, r Replication) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machineByID(id)
	if m == nil || m.planned {
		return fmt.Errorf("hvsim: no machine %s", id)
	}
	m.cs.Set("ReplicationState", r.State).Set("ReplicationHealth", r.Health).Set("ReplicationMode", r.Mode).Set("LastReplicationTime", nil)
	if !r.Last.IsZero() {
		m.cs.Set("LastReplicationTime", cimx.Datetime(r.Last))
	}
	return nil
}

// SetHealth sets a machine's HealthState: 5 good, 20 major failure, 25 critical, which also pauses a running machine like Hyper-V
// does when the disk of its files is full [D: Msvm_ComputerSystem.HealthState].
func (s *Sim) SetHealth(id string, health uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machineByID(id)
	if m == nil {
		return fmt.Errorf("hvsim: no machine %s", id)
	}
	m.cs.Set("HealthState", health)
	if health == 25 && m.state() == stRunning {
		m.setState(stPaused)
		m.cs.Set("OperationalStatus", []any{3}).Set("StatusDescriptions", []any{"Critical"})
	}
	return nil
}

// Compressed reports whether a machine's last migration was set to compress its memory [D:
// Msvm_VirtualSystemMigrationSettingData.EnableCompression].
func (s *Sim) Compressed(id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.moves[strings.ToUpper(id)]
	if set == nil {
		return false, fmt.Errorf("hvsim: machine %s was not moved", id)
	}
	return set.Bool("EnableCompression"), nil
}

// MovedThrough returns the addresses of the destination that a machine's last migration was requested to use [D:
// Msvm_VirtualSystemMigrationSettingData.DestinationIPAddressList].
func (s *Sim) MovedThrough(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.moves[strings.ToUpper(id)]; set != nil {
		return set.Strings("DestinationIPAddressList")
	}
	return nil
}

// SavedMoves returns how often the cluster saved a running machine to move it, instead of moving it live.
func (s *Sim) SavedMoves(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.cluster.role(strings.ToUpper(id)); r != nil {
		return r.saved
	}
	return 0
}
