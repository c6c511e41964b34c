package xen

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// fetcher reads single records at the same time.
type fetcher struct {
	d   *driver
	g   *errgroup.Group
	ctx context.Context
	mu  sync.Mutex
}

// fetch reads one record into a map. A null reference, and an object that has
// vanished meanwhile, are left out.
func fetch[T any](f *fetcher, into map[xapi.Ref]T, class string, ref xapi.Ref) {
	if ref.IsNull() {
		return
	}
	f.g.Go(func() error {
		var rec T
		err := f.d.c.Call(f.ctx, &rec, class+".get_record", ref)
		if err != nil {
			if kindOf(err) == hypervisor.KindNotFound {
				return nil
			}
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		into[ref] = rec
		return nil
	})
}

// byUUID finds a reference by uuid. The empty uuid is Null.
func (d *driver) byUUID(ctx context.Context, class, uuid string) (xapi.Ref, error) {
	if uuid == "" {
		return xapi.Null, nil
	}
	var ref xapi.Ref
	err := d.c.Call(ctx, &ref, class+".get_by_uuid", uuid)
	return ref, err
}

// records reads the records of some references at the same time.
func records[T any](ctx context.Context, d *driver, class string, refs []xapi.Ref) (map[xapi.Ref]T, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelism)
	f := fetcher{d: d, g: g, ctx: ctx}
	out := map[xapi.Ref]T{}
	for _, r := range refs {
		fetch(&f, out, class, r)
	}
	return out, g.Wait()
}
