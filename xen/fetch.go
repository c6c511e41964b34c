package xen

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// fetcher reads single records in parallel.
type fetcher struct {
	d   *driver
	g   *errgroup.Group
	ctx context.Context
	mu  sync.Mutex
	// seen is used only by the adding goroutine.
	seen map[xapi.Ref]bool
}

// fetch reads one record into a map. A null reference, and an object that has
// vanished meanwhile, are left out.
func fetch[T any](f *fetcher, into map[xapi.Ref]T, class string, ref xapi.Ref) {
	if ref.IsNull() {
		return
	}
	get(f, class+".get_record", ref, func(rec T) { into[ref] = rec })
}

// get sends a message that only reads, and passes the results on one at a
// time.
func get[T any](f *fetcher, method string, ref xapi.Ref, set func(T)) {
	f.g.Go(func() error {
		var v T
		if err := f.d.c.Call(f.ctx, &v, method, ref); err != nil {
			if kindOf(err) == hypervisor.ErrNotFound {
				return nil
			}
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		set(v)
		return nil
	})
}

// fetchUUID reads an object's uuid, once.
func fetchUUID(f *fetcher, ref xapi.Ref, class string, set func(string)) {
	if ref.IsNull() || f.seen[ref] {
		return
	}
	if f.seen == nil {
		f.seen = map[xapi.Ref]bool{}
	}
	f.seen[ref] = true
	get(f, class+".get_uuid", ref, set)
}

// each runs everything that f fetches in parallel.
func (d *driver) each(ctx context.Context, add func(f *fetcher)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelism)
	add(&fetcher{d: d, g: g, ctx: ctx})
	return g.Wait()
}

// byUUID finds a reference by uuid. An empty uuid gives Null.
func (d *driver) byUUID(ctx context.Context, class, uuid string) (xapi.Ref, error) {
	if uuid == "" {
		return xapi.Null, nil
	}
	var ref xapi.Ref
	err := d.c.Call(ctx, &ref, class+".get_by_uuid", uuid)
	return ref, err
}

// records reads the records of some references in parallel.
func records[T any](ctx context.Context, d *driver, class string, refs []xapi.Ref) (map[xapi.Ref]T, error) {
	out := map[xapi.Ref]T{}
	return out, d.each(ctx, func(f *fetcher) {
		for _, r := range refs {
			fetch(f, out, class, r)
		}
	})
}
