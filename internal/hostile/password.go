package hostile

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const (
	// tries is how often each goroutine lists.
	tries = 25
	// limit ends the calls of a driver that doesn't return.
	limit = 3 * time.Minute
)

// ChangedPassword makes a password wrong from some point on, while 64
// goroutines list machines repeatedly and one watches. Each call must fail as
// with a wrong password. refused, which counts the logins that the server has
// refused, must stay at two, because accounts lock after some more.
func ChangedPassword(t *testing.T, c *hypervisor.Client, change func(), refused func() int) {
	t.Helper()
	change()
	ctx, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	watching, end := context.WithCancel(ctx)
	defer end()
	var watch, lists sync.WaitGroup
	watch.Go(func() {
		for watching.Err() == nil {
			for _, err := range c.Watch(watching, "") {
				if err != nil {
					break
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for range 64 {
		lists.Go(func() {
			for n := 0; n < tries; {
				_, err := hypervisor.Collect(c.VMs(ctx, nil))
				switch hypervisor.KindOf(err) {
				case hypervisor.ErrUnauthenticated:
					n++
				case hypervisor.ErrUnavailable: // a busy machine did not connect in time: this list is made again
				default:
					t.Errorf("list %d: %v, want ErrUnauthenticated", n, err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	lists.Wait()
	end()
	watch.Wait()
	if n := refused(); n < 1 || n > 2 {
		t.Errorf("%d logins were refused, want one or two", n)
	}
}
