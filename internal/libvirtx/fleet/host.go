//go:build cgo

package fleet

import (
	"context"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Host is one libvirtd.
type Host struct {
	Conn *libvirtx.Conn
	URI  string // as it was given; empty for a given connection
	Peer Peer   // the way that other hosts reach it; the driver sets it

	fleet *Fleet
	mu    sync.Mutex
	facts *libvirtx.Facts
	epoch int // of the connection over which facts were read
}

// Peer is a host as the other hosts see it.
type Peer struct {
	URI     string // URI of its libvirtd, for peer-to-peer migration
	Migrate string // address that its hypervisor listens on; empty leaves it to libvirt
}

// ID is the host's UUID, or its URI as long as it never answered.
func (h *Host) ID() hypervisor.HostID {
	if f := h.Known(); f != nil {
		return hypervisor.HostID(f.UUID)
	}
	return hypervisor.HostID(h.Conn.URI())
}

// Known returns the facts that were read last, or nil if none ever were.
func (h *Host) Known() *libvirtx.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.facts
}

// Identify returns the facts that do not change while a libvirtd runs. It
// reads them again after a new connection: libvirtd may have been upgraded.
func (h *Host) Identify(ctx context.Context) (*libvirtx.Facts, error) {
	h.mu.Lock()
	f, epoch := h.facts, h.epoch
	h.mu.Unlock()
	if now, _ := h.Conn.Epoch(); f != nil && now == epoch {
		return f, nil
	}
	f, err := libvirtx.Do(ctx, h.Conn, libvirtx.FactCalls, h.fleet.platform.ReadFacts)
	if err != nil {
		return nil, err
	}
	now, _ := h.Conn.Epoch()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.facts, h.epoch = f, now
	return f, nil
}

// Hosts implements hypervisor.HostLister.
func (f *Fleet) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	out := make([]hypervisor.HostInfo, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() { out[i] = h.info(ctx) })
	}
	wg.Wait()
	return out, ctx.Err()
}

func (h *Host) info(ctx context.Context) hypervisor.HostInfo {
	f, err := h.Identify(ctx)
	type now struct {
		free    uint64
		running int
	}
	var n now
	if err == nil {
		n, err = libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) (now, error) {
			free, err := libvirtx.FreeMemory(c)
			if err != nil {
				return now{}, err
			}
			running, err := c.NumOfDomains()
			return now{free, running}, err
		})
	}
	if err != nil {
		i := hypervisor.HostInfo{ID: h.ID(), Name: h.Conn.URI(), State: hypervisor.HostDown, Detail: err.Error()}
		if f := h.Known(); f != nil {
			i.Name = f.Name
		}
		return i
	}
	i := f.HostInfo()
	i.FreeBytes, i.Running = min(int64(n.free), i.MemoryBytes), max(n.running-f.ControlDomains, 0)
	return i
}

// Host returns a host by its ID.
func (f *Fleet) Host(id hypervisor.HostID) (*Host, error) {
	for _, h := range f.Members {
		if h.ID() == id {
			return h, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such host in this Client")
}

// Up returns the hosts that answer, and an error if none does.
func (f *Fleet) Up(ctx context.Context) ([]*Host, error) {
	ok := make([]bool, len(f.Members))
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() {
			_, errs[i] = h.Identify(ctx)
			ok[i] = errs[i] == nil
		})
	}
	wg.Wait()
	var out []*Host
	for i, h := range f.Members {
		if ok[i] {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, errs[0]
	}
	return out, nil
}
