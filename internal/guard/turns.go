package guard

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// turns lets one of a server's large answers be read at a time. A turn is no
// lock over the network: an answer that arrives slowly loses it to those that
// wait, and keeps what it has until its next turn. Such answers together have
// at most the size that one may have, so that a server can't multiply it. If
// they have more, those that wait end with their contexts.
type turns struct {
	turn chan struct{} // full while an answer has it

	mu     sync.Mutex
	holder *body
	since  time.Time // of the holder's turn
	aside  int64     // bytes of the answers that lost their turn
}

// body is an answer's body. The fields below turns are guarded by its mutex.
type body struct {
	io.Reader
	io.Closer

	turns    *turns
	read     int64
	aside    int64 // the part of turns.aside
	awaiting bool  // bytes from the network
	end      chan struct{}
	closed   bool
}

// taken reads an answer, and waits for its turn where that is no longer small.
type taken struct {
	body *body
	ctx  context.Context
	r    io.Reader
	size int64
}

func (r *taken) Read(p []byte) (int, error) {
	b := r.body
	b.await(true, 0)
	n, err := r.r.Read(p)
	if b.await(false, n) > small { // at the end too, since decoding takes memory
		if err := b.enter(r.ctx, r.size); err != nil {
			return 0, err
		}
	}
	return n, err
}

// await notes that a read begins, or that it ended with n bytes. It returns
// the bytes so far.
func (b *body) await(begins bool, n int) int64 {
	b.turns.mu.Lock()
	defer b.turns.mu.Unlock()
	b.awaiting = begins
	b.read += int64(n)
	return b.read
}

// enter takes the turn. It fails if ctx or the answer ends.
func (b *body) enter(ctx context.Context, size int64) error {
	t := b.turns
	if t.has(b) {
		return nil
	}
	late := time.NewTicker(slice)
	defer late.Stop()
	for {
		select {
		case t.turn <- struct{}{}:
			t.mu.Lock()
			defer t.mu.Unlock()
			if b.closed {
				<-t.turn
				return http.ErrBodyReadAfterClose
			}
			t.holder, t.since = b, time.Now()
			t.aside -= b.aside
			b.aside = 0
			return nil
		case <-late.C:
			t.move(size)
		case <-b.end:
			return http.ErrBodyReadAfterClose
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *turns) has(b *body) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder == b
}

// move ends the turn of an answer that waits for the network.
func (t *turns) move(size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.holder
	if b == nil || !b.awaiting || time.Since(t.since) < slice || t.aside+b.read > size {
		return
	}
	b.aside = b.read
	t.aside += b.aside
	t.leave()
}

// leave ends the holder's turn. The caller has the mutex.
func (t *turns) leave() {
	t.holder = nil
	<-t.turn
}

func (b *body) Close() error {
	t := b.turns
	t.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.end)
		t.aside -= b.aside
		b.aside = 0
		if t.holder == b {
			t.leave()
		}
	}
	t.mu.Unlock()
	return b.Closer.Close()
}
