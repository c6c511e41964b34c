package vsphere

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// session is the transport of a driver: it counts calls, ends them with their
// context and with the driver, and renews a session that the server has ended.
// The server refuses a call with NotAuthenticated before it acts, so such a
// call is safe to send again, whatever it does.
type session struct {
	next     soap.RoundTripper
	login    func(context.Context) error // nil: can't be renewed
	closed   context.Context             // ends with Close
	gen      atomic.Uint64               // grows with each renewal
	turn     chan struct{}
	loggedIn atomic.Bool
	last     atomic.Int64 // time of the last call, Unix nanoseconds
}

// RoundTrip sends a call, and once more after a renewal.
func (s *session) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	gen := s.gen.Load()
	err := s.send(ctx, req, res)
	if !refusedSession(err) || s.login == nil {
		return err
	}
	if rerr := s.renew(ctx, gen); rerr != nil {
		return rerr
	}
	reflect.ValueOf(res).Elem().SetZero()
	return s.send(ctx, req, res)
}

func (s *session) send(ctx context.Context, req, res soap.HasFault) error {
	if s.closed.Err() != nil {
		return errClosed()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.last.Store(time.Now().UnixNano())
	hypervisor.CountCalls(ctx, 1)
	c, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.closed, cancel)
	err := s.next.RoundTrip(c, req, res)
	stop()
	cancel()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed.Err() != nil:
		return errClosed()
	}
	return transportError(err)
}

func errClosed() error {
	return &hypervisor.Error{Kind: hypervisor.KindClosed, Err: hypervisor.ErrClosed}
}

// renew logs in again unless another call did since gen.
func (s *session) renew(ctx context.Context, gen uint64) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed.Done():
		return errClosed()
	}
	if s.gen.Load() != gen {
		return nil
	}
	if err := s.login(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k := kindOf(transportError(err))
		if k != hypervisor.KindUnavailable {
			k = hypervisor.KindUnauthenticated
		}
		return &hypervisor.Error{Kind: k, Unsent: true, Err: err}
	}
	s.gen.Add(1)
	return nil
}

func refusedSession(err error) bool {
	switch faultOf(err).(type) {
	case *types.NotAuthenticated:
		return true
	}
	return false
}

// transportError marks what is no answer of the server as unavailable, and
// tells whether the call can have reached it.
func transportError(err error) error {
	var e *hypervisor.Error
	if err == nil || faultOf(err) != nil || soap.IsSoapFault(err) || errors.As(err, &e) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var op *net.OpError
	unsent := errors.As(err, &op) && op.Op == "dial"
	return &hypervisor.Error{Kind: hypervisor.KindUnavailable, Unsent: unsent || soap.IsCertificateUntrusted(err), Err: err}
}

const keepAliveDefault = 5 * time.Minute

// keepAlive calls the server when nobody else did for a while; a session that
// ended is renewed by that call.
func (d *driver) keepAlive(every time.Duration) {
	if every == 0 {
		every = keepAliveDefault
	}
	d.background.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-d.ctx.Done():
				return
			case now := <-t.C:
				if now.Sub(time.Unix(0, d.session.last.Load())) < every/2 {
					continue
				}
				// An error shows again in the next call that somebody makes.
				_, _ = methods.GetCurrentTime(d.ctx, d.rt)
			}
		}
	})
}

// later runs clean-up on the server that the caller does not wait for.
func (d *driver) later(f func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return
	}
	d.background.Go(func() {
		ctx, stop := context.WithTimeout(d.ctx, 10*time.Second)
		defer stop()
		f(ctx)
	})
}

// logout ends the session that connect made.
func logout(ctx context.Context, vc *vim25.Client) error {
	if vc.ServiceContent.SessionManager == nil {
		return nil
	}
	_, err := methods.Logout(ctx, vc.Client, &types.Logout{This: *vc.ServiceContent.SessionManager})
	if refusedSession(err) { // it has ended already
		return nil
	}
	return err
}
