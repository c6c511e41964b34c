package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/guard"
	kit "github.com/anyvisor/anyvisor/internal/session"
)

// session is the transport of a driver. It counts calls, ends them with their
// context and with the driver, and renews a session that the server has
// ended. The server refuses a call with NotAuthenticated before it acts, so
// such a call is safe to send again, whatever it does.
type session struct {
	next   soap.RoundTripper
	login  func(context.Context) error // nil means that the session can't be renewed
	closed context.Context             // ends with Close
	link   *kit.Keeper[uint64]         // of the value of gen after a login
	gen    atomic.Uint64               // grows with each login; 0 for a given session
	last   atomic.Int64                // time of the last call, Unix nanoseconds
}

const (
	loginLimit  = time.Minute
	logoutLimit = time.Second
)

func newSession(next soap.RoundTripper, login func(context.Context) error, closed context.Context) *session {
	s := &session{next: next, login: login, closed: closed}
	s.link = kit.New(loginLimit, func(ctx context.Context) (uint64, error) {
		if err := s.login(ctx); err != nil {
			return 0, err
		}
		return s.gen.Add(1), nil
	}, func(uint64) {}) // a session that comes after Close: the server ends it when it is idle
	s.link.Remember(func(err error) bool {
		return faultOf(err) != nil && kindOf(err) == hypervisor.ErrUnauthenticated || hypervisor.KindOf(err) == hypervisor.ErrUnauthenticated
	})
	return s
}

// RoundTrip sends a call, and sends it again after a renewal.
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
	return &hypervisor.Error{Kind: hypervisor.ErrClosed, Err: hypervisor.ErrClosed}
}

// renew logs in again, unless another call has done so since gen.
func (s *session) renew(ctx context.Context, gen uint64) error {
	s.link.Invalidate(gen)
	_, err := s.link.Get(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kit.ErrClosed):
		return errClosed()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	k := kindOf(transportError(err))
	if k != hypervisor.ErrUnavailable && k != hypervisor.ErrExhausted {
		k = hypervisor.ErrUnauthenticated
	}
	return &hypervisor.Error{Kind: k, Unsent: true, Err: err}
}

func refusedSession(err error) bool {
	switch faultOf(err).(type) {
	case *types.NotAuthenticated:
		return true
	}
	return false
}

// transportError marks an error that is not an answer of the server as
// unavailable, and records whether the call can have reached the server.
func transportError(err error) error {
	var e *hypervisor.Error
	if err == nil || faultOf(err) != nil || soap.IsSoapFault(err) || errors.As(err, &e) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var op *net.OpError
	unsent := errors.As(err, &op) && op.Op == "dial"
	kind := hypervisor.ErrUnavailable
	if errors.As(err, new(*guard.LimitError)) {
		kind = hypervisor.ErrExhausted
	}
	if err == io.EOF {
		err = fmt.Errorf("the server's answer has no content: it may be an HTTP error of a proxy, or of a service that is starting (%w)", err)
	}
	return &hypervisor.Error{Kind: kind, Unsent: unsent || soap.IsCertificateUntrusted(err), Err: err}
}

const keepAliveDefault = 5 * time.Minute

// keepAlive calls the server when nobody else has for a while. That call also
// renews a session that has ended.
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
				// An error shows again in somebody's next call.
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
