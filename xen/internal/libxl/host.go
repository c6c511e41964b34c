//go:build cgo

package libxl

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
	f, err := libvirtx.Do(ctx, h.conn, libvirtx.FactCalls, readFacts)
	if err != nil {
		return nil, err
	}
	now, _ := h.conn.Epoch()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.facts, h.epoch = f, now
	return f, nil
}

// readFacts is libvirtx.ReadFacts with what is different on Xen.
func readFacts(c *libvirt.Connect) (*libvirtx.Facts, error) {
	f, err := libvirtx.ReadFacts(c)
	if err != nil {
		return nil, err
	}
	// Xen offers hvm guests only on a CPU with VT-x or AMD-V, whatever flags
	// the control domain sees.
	f.CPU.Virtualization = hypervisor.FactOf(f.Arch != "")
	if f.Arch == "" {
		f.Arch = "x86_64"
	}
	// libvirt asks the control domain's kernel, which Xen shows no IOMMU: that
	// of Xen itself is in no libvirt call. The same goes for nested paging.
	f.IOMMU, f.CPU.NestedPaging, f.CPU.APICVirtualization = hypervisor.Unknown, hypervisor.Unknown, hypervisor.Unknown
	return f, nil
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
	// The control domain counts as one.
	i.FreeBytes, i.Running = min(int64(n.free), i.MemoryBytes), max(n.running-1, 0)
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
