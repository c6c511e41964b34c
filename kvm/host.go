//go:build cgo

package kvm

import (
	"context"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// host is one libvirtd.
type host struct {
	d    *driver
	conn *libvirtx.Conn
	uri  string
	peer Peer

	mu    sync.Mutex
	files Sysfs // nil if there is no way to them
	facts *libvirtx.Facts
	epoch int // of the connection that facts were read on
}

// ID is the host's UUID, or its URI while it never answered.
func (h *host) ID() hypervisor.HostID {
	if f := h.known(); f != nil {
		return hypervisor.HostID(f.UUID)
	}
	return hypervisor.HostID(h.conn.URI())
}

func (h *host) known() *libvirtx.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.facts
}

// identify returns what does not change while a libvirtd runs. It is read
// again after a new connection: libvirtd may have been upgraded.
func (h *host) identify(ctx context.Context) (*libvirtx.Facts, error) {
	h.mu.Lock()
	f, epoch := h.facts, h.epoch
	h.mu.Unlock()
	if now, _ := h.conn.Epoch(); f != nil && now == epoch {
		return f, nil
	}
	f, err := libvirtx.Do(ctx, h.conn, libvirtx.FactCalls, libvirtx.ReadFacts)
	if err != nil {
		return nil, err
	}
	now, _ := h.conn.Epoch()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.facts, h.epoch = f, now
	return f, nil
}

// sysfs returns the host's files, nil if there is no way to them.
func (h *host) sysfs() Sysfs { return h.files }

// domainType is what new machines are.
func (h *host) domainType(f *libvirtx.Facts) string {
	if h.d.cfg.DomainType != "" {
		return h.d.cfg.DomainType
	}
	if f.KVM {
		return "kvm"
	}
	return "qemu"
}

// Hosts implements hypervisor.HostLister.
func (d *driver) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	out := make([]hypervisor.HostInfo, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() { out[i] = h.info(ctx) })
	}
	wg.Wait()
	return out, ctx.Err()
}

func (h *host) info(ctx context.Context) hypervisor.HostInfo {
	f, err := h.identify(ctx)
	type now struct {
		free    uint64
		running int
	}
	var n now
	if err == nil {
		n, err = libvirtx.Do(ctx, h.conn, 2, func(c *libvirt.Connect) (now, error) {
			free, err := libvirtx.FreeMemory(c)
			if err != nil {
				return now{}, err
			}
			running, err := c.NumOfDomains()
			return now{free, running}, err
		})
	}
	if err != nil {
		i := hypervisor.HostInfo{ID: h.ID(), Name: h.conn.URI(), State: hypervisor.HostDown, Detail: err.Error()}
		if f := h.known(); f != nil {
			i.Name = f.Name
		}
		return i
	}
	i := f.HostInfo()
	i.FreeBytes, i.Running = min(int64(n.free), i.MemoryBytes), n.running
	return i
}

// up returns the hosts that answer, and an error if none does.
func (d *driver) up(ctx context.Context) ([]*host, error) {
	ok := make([]bool, len(d.hosts))
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() {
			_, errs[i] = h.identify(ctx)
			ok[i] = errs[i] == nil
		})
	}
	wg.Wait()
	var out []*host
	for i, h := range d.hosts {
		if ok[i] {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, errs[0]
	}
	return out, nil
}
