//go:build cgo

package fleet

import (
	"context"
	"errors"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// A request whose answer was lost may have been done, or may still be done
// later. Requests that lead to the same end however often they are done are
// repeated, over a new connection, until a host answers. So the end is known,
// and a request that arrives late changes nothing any more.

// OutcomeLimit is the time that a host may be away before an outcome is given
// up.
const OutcomeLimit = 2 * time.Minute

// Again repeats f if the connection broke during it, until a host answers. f
// learns whether it was started before.
func (h *Host) Again(ctx context.Context, f func(again bool) error) error {
	err := f(false)
	var e *hypervisor.Error
	if !libvirtx.Lost(err) || errors.As(err, &e) && e.Unsent {
		return err
	}
	return h.answered(ctx, func() error { return f(true) })
}

// AgainOn is like Again, with a machine's domain.
func (h *Host) AgainOn(ctx context.Context, id hypervisor.VMID, calls int, f func(dom *libvirt.Domain) error) error {
	return h.Again(ctx, func(bool) error {
		_, err := OnHost(ctx, h, id, calls, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) { return struct{}{}, f(dom) })
		return err
	})
}

// answered calls f until the host answers, or the Client is closed.
func (h *Host) answered(ctx context.Context, f func() error) error {
	err := f()
	for end := time.Now().Add(OutcomeLimit); h.Conn.Renewable() && libvirtx.KindOf(err) == hypervisor.ErrUnavailable && time.Now().Before(end); err = f() {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-h.fleet.done:
			return err
		case <-time.After(PollEvery):
		}
	}
	return err
}

// Define stores a definition. Storing it twice is the same as once.
func (h *Host) Define(ctx context.Context, x *libvirtxml.Domain) error {
	return h.Again(ctx, func(bool) error {
		_, err := libvirtx.Do(ctx, h.Conn, 1, func(c *libvirt.Connect) (struct{}, error) { return struct{}{}, libvirtx.Define(c, x) })
		return err
	})
}

// Undefine removes a domain's definition. After a lost answer it is not an
// error if the domain is gone.
func (h *Host) Undefine(ctx context.Context, id hypervisor.VMID, undefine func(*libvirt.Domain) error) error {
	return h.Again(ctx, func(again bool) error {
		_, err := OnHost(ctx, h, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, undefine(dom)
		})
		if again && libvirtx.NotFound(err) {
			return nil
		}
		return err
	})
}

// Tidy removes images that failed work made, except those that a machine or a
// snapshot uses and those that others depend on. It names the images that it
// could not remove.
func (h *Host) Tidy(ctx context.Context, made []libvirtx.Volume) []hypervisor.Ref {
	b, unused, err := h.unused(ctx, made)
	if err != nil { // it is unknown what is used
		return refs(made)
	}
	drop := Paths{}
	for _, v := range unused {
		drop[v.Path] = true
	}
	left, _ := b.Discard(ctx, drop) // the first error counts
	return left
}

// Unused names those of some images that nothing uses any more.
func (h *Host) Unused(ctx context.Context, images []libvirtx.Volume) []hypervisor.Ref {
	_, unused, err := h.unused(ctx, images)
	if err != nil {
		return refs(images)
	}
	return refs(unused)
}

func (h *Host) unused(ctx context.Context, images []libvirtx.Volume) (b *Books, unused []libvirtx.Volume, err error) {
	if len(images) == 0 {
		return &Books{host: h}, nil, nil
	}
	err = h.answered(ctx, func() error {
		var err error
		b, err = h.fleet.Books(ctx, h)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, v := range images {
		if _, there := b.Images.ByPath[v.Path]; there && len(b.Users(v.Path)) == 0 && len(b.Images.Above[v.Path]) == 0 {
			unused = append(unused, v)
		}
	}
	return b, unused, nil
}

func refs(images []libvirtx.Volume) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, v := range images {
		out = append(out, v.Ref())
	}
	return out
}

// Discard is like Remove, over a connection that may break.
func (b *Books) Discard(ctx context.Context, images Paths) (left []hypervisor.Ref, err error) {
	if len(images) == 0 {
		return nil, nil
	}
	for p := range images { // left if no host answers
		if v, ok := b.Images.ByPath[p]; ok {
			left = append(left, v.Ref())
		}
	}
	err = b.host.Again(ctx, func(bool) error {
		_, err := libvirtx.Do(ctx, b.host.Conn, len(images), func(c *libvirt.Connect) (struct{}, error) {
			var err error
			left, err = b.Remove(c, images)
			return struct{}{}, err
		})
		return err
	})
	return left, err
}
