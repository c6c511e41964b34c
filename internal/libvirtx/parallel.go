package libvirtx

import "sync"

// width is the number of requests that one listing has in flight on a
// connection. libvirtd's own limit is 5 by default (max_client_requests).
const width = 4

// Each calls f for 0 to n-1, some in parallel, and returns the first error.
func Each(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	next := 0
	for range min(n, width) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := first != nil
				mu.Unlock()
				if i >= n || stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}
