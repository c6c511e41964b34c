package com

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ole "github.com/go-ole/go-ole"
	"github.com/go-ole/go-ole/oleutil"
	wmi "github.com/microsoft/wmi/pkg/wmiinstance"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	refusals "github.com/anyvisor/anyvisor/internal/session"
)

type session struct {
	cfg     Config
	w       *workers
	manager *wmi.WmiSessionManager
	calls   atomic.Int64

	mu     sync.Mutex
	spaces map[string]*wmi.WmiSession // by namespace
	subs   sync.WaitGroup
	closed context.Context
	stop   context.CancelFunc
}

var _ cim.Session = (*session)(nil)

// Open connects to the WMI service, at first to the virtualization namespace.
func Open(ctx context.Context, cfg Config) (cim.Session, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.EventWait == 0 {
		cfg.EventWait = 250 * time.Millisecond
	}
	if cfg.Server == "" && cfg.User != "" {
		return nil, errors.New("com: WMI refuses credentials for the local machine; leave User empty")
	}
	if cfg.Refusals == nil {
		cfg.Refusals = refusals.NewRefusals(false)
	}
	w, err := startWorkers(cfg.Workers)
	if err != nil {
		return nil, fmt.Errorf("com: %w", err)
	}
	s := &session{cfg: cfg, w: w, spaces: map[string]*wmi.WmiSession{}}
	s.closed, s.stop = context.WithCancel(context.Background())
	err = w.do(ctx, func() error { s.manager = wmi.NewWmiSessionManager(); return nil })
	if err == nil {
		err = w.do(ctx, func() error { _, err := s.space(cim.Virtualization); return err })
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) Host() string {
	if s.cfg.Server == "" {
		return "."
	}
	return s.cfg.Server
}

func (s *session) Calls() int64 { return s.calls.Load() }

// closeLimit is the time that Close waits for calls under way: COM's calls
// can't be interrupted.
const closeLimit = time.Second

// Close ends subscriptions, releases the COM objects and ends the workers. A
// worker that is still in a COM call after closeLimit ends when the call
// returns.
func (s *session) Close() error {
	s.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.subs.Wait()
		_ = s.w.do(context.Background(), func() error { s.release(); return nil })
		s.w.stop()
	}()
	select {
	case <-done:
	case <-time.After(closeLimit):
	}
	return nil
}

// release releases all COM objects. It runs on a worker.
func (s *session) release() {
	s.mu.Lock()
	spaces, manager := s.spaces, s.manager
	s.spaces, s.manager = map[string]*wmi.WmiSession{}, nil
	s.mu.Unlock()
	for _, sp := range spaces {
		sp.Close()
	}
	if manager != nil {
		manager.Dispose() // also undoes the CoInitializeEx of its creation
	}
}

// space returns the connection to a namespace. It runs on a worker. If two
// connect at the same time, one is released.
func (s *session) space(ns string) (*wmi.WmiSession, error) {
	s.mu.Lock()
	sp, manager := s.spaces[ns], s.manager
	s.mu.Unlock()
	if sp != nil {
		return sp, nil
	}
	if manager == nil {
		return nil, cim.ErrClosed
	}
	sp, err := manager.GetSession(strings.ReplaceAll(ns, "/", `\`), s.cfg.Server, "", s.cfg.User, string(s.cfg.Password))
	if err != nil {
		return nil, wmiError("connect", err)
	}
	if err := s.cfg.login(func() error { return wmiError("connect", connect(sp)) }); err != nil {
		return nil, err
	}
	s.mu.Lock()
	other, closed := s.spaces[ns], s.manager == nil
	if other == nil && !closed {
		s.spaces[ns] = sp
	}
	s.mu.Unlock()
	switch {
	case closed:
		sp.Close()
		return nil, cim.ErrClosed
	case other != nil:
		sp.Close()
		return other, nil
	}
	return sp, nil
}

// Authentication and impersonation levels of the scripting API
// (wbemAuthenticationLevelPktPrivacy, wbemImpersonationLevelImpersonate).
const (
	levelPacketPrivacy = 6
	levelImpersonate   = 3
)

// connect does the same as WmiSession.Connect, but leaves the server's name
// unchanged: Connect joins it with the domain by a dot, even if there is
// none, and prints a stack trace when a call fails.
func connect(sp *wmi.WmiSession) error {
	user := sp.Username
	raw, err := oleutil.CallMethod(sp.CimwmiService, "ConnectServer", sp.ServerName, sp.Namespace, user, sp.Password, "MS_409")
	if err != nil {
		return err
	}
	sp.RawSession, sp.Session = raw, raw.ToIDispatch()
	if sp.Session == nil {
		return errors.New("ConnectServer returned no object")
	}
	sec, err := oleutil.GetProperty(sp.Session, "Security_")
	if err != nil {
		return err
	}
	defer sec.Clear()
	for name, level := range map[string]int32{"ImpersonationLevel": levelImpersonate, "AuthenticationLevel": levelPacketPrivacy} {
		v, err := oleutil.PutProperty(sec.ToIDispatch(), name, level)
		if err != nil {
			return err
		}
		v.Clear()
	}
	return nil
}

// Query implements cim.Session. COM has no pages, so all rows are read before
// the first is yielded.
func (s *session) Query(ctx context.Context, ns, wql string) iter.Seq2[*cim.Instance, error] {
	return func(yield func(*cim.Instance, error) bool) {
		var rows []*cim.Instance
		err := s.do(ctx, func() error {
			sp, err := s.space(ns)
			if err != nil {
				return err
			}
			enum, err := sp.PerformRawQuery(wql)
			if err != nil {
				return wmiError("query", err)
			}
			defer enum.Release()
			var out []*cim.Instance
			names := cim.Selected(wql)
			err = each(ctx, enum, func(v *ole.VARIANT) error {
				i, err := readNamed(v.ToIDispatch(), names)
				out = append(out, i)
				return err
			})
			rows = out
			return err
		})
		if err != nil {
			yield(nil, err)
			return
		}
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *session) do(ctx context.Context, f func() error) error {
	s.count(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closed, cancel)()
	err := s.w.do(ctx, f)
	if err != nil && s.closed.Err() != nil {
		return cim.ErrClosed
	}
	return err
}

func (s *session) count(ctx context.Context) {
	s.calls.Add(1)
	if s.cfg.OnCall != nil {
		s.cfg.OnCall(ctx)
	}
}

// Get implements cim.Session.
func (s *session) Get(ctx context.Context, ref cim.Ref) (*cim.Instance, error) {
	var out *cim.Instance
	err := s.do(ctx, func() error {
		return s.object(ref, func(o *wmi.WmiInstance) error {
			i, err := readObject(o.GetIDispatch())
			out = i
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// object runs f on an instance and releases it.
func (s *session) object(ref cim.Ref, f func(*wmi.WmiInstance) error) error {
	sp, err := s.space(ref.Namespace)
	if err != nil {
		return err
	}
	o, err := sp.GetInstance(ref.RelPath())
	if err != nil {
		return wmiError("get "+ref.Class, err)
	}
	defer o.Close()
	if o.GetIDispatch() == nil {
		return fmt.Errorf("com: %s is no object", ref.Class)
	}
	return f(o)
}

// Invoke implements cim.Session.
func (s *session) Invoke(ctx context.Context, ref cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	var res *cim.Result
	err := s.do(ctx, func() error {
		return s.object(ref, func(o *wmi.WmiInstance) error {
			r, err := execMethod(o.GetIDispatch(), method, args)
			res = r
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// Put implements cim.Session.
func (s *session) Put(ctx context.Context, ref cim.Ref, props ...cim.Prop) error {
	return s.do(ctx, func() error {
		return s.object(ref, func(o *wmi.WmiInstance) error {
			for _, p := range props {
				if err := putValue(o.GetIDispatch(), p.Name, propVariant(p)); err != nil {
					return wmiError("put "+p.Name, err)
				}
			}
			v, err := oleutil.CallMethod(o.GetIDispatch(), "Put_")
			if err != nil {
				return wmiError("put", err)
			}
			return v.Clear()
		})
	})
}

// event is what a subscription reports: an object, or the reason for its end.
type event struct {
	object *cim.Instance
	err    error
}

// Subscribe implements cim.Session with a semisynchronous event query.
func (s *session) Subscribe(ctx context.Context, ns, wql string) iter.Seq2[*cim.Instance, error] {
	return func(yield func(*cim.Instance, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(s.closed, stop)()
		events := make(chan event)
		s.subs.Go(func() { s.pump(ctx, ns, wql, events) })
		for {
			select {
			case e := <-events:
				if !yield(e.object, e.err) || e.err != nil {
					return
				}
			case <-ctx.Done():
				err := ctx.Err()
				if s.closed.Err() != nil {
					err = cim.ErrClosed
				}
				yield(nil, err)
				return
			}
		}
	}
}

// pump reads the events of a subscription until ctx ends. It leaves no call
// before its end, because the list must not be closed while it is used. Each
// wait for an event occupies a worker for EventWait at most.
func (s *session) pump(ctx context.Context, ns, wql string, events chan<- event) {
	tell := func(e event) bool {
		select {
		case events <- e:
			return e.err == nil
		case <-ctx.Done():
			return false
		}
	}
	sure := context.WithoutCancel(ctx)
	var list *wmi.WmiSynchronousEventsList
	s.count(ctx)
	err := s.w.do(sure, func() error {
		sp, err := s.space(ns)
		if err != nil {
			return err
		}
		list, err = sp.ExecNotificationQuery(wql)
		return wmiError("subscribe", err)
	})
	if err != nil {
		tell(event{err: err})
		return
	}
	defer s.w.do(sure, func() error { list.Close(); return nil })
	for ctx.Err() == nil {
		ev, err := s.nextEvent(sure, list)
		if cim.KindOf(err) == cim.Timeout {
			continue
		}
		if !tell(event{ev, err}) {
			return
		}
	}
}

func (s *session) nextEvent(ctx context.Context, list *wmi.WmiSynchronousEventsList) (ev *cim.Instance, err error) {
	err = s.w.do(ctx, func() error {
		o, err := list.WaitForNextEventUntil(int32(s.cfg.EventWait / time.Millisecond))
		if err != nil {
			return wmiError("event", err)
		}
		defer o.Close()
		ev, err = readObject(o.GetIDispatch())
		return err
	})
	return ev, err
}

// wmiError finds the WMI code: the scripting API reports DISP_E_EXCEPTION and
// puts the code into the EXCEPINFO.
func wmiError(op string, err error) error {
	if err == nil {
		return nil
	}
	var oe *ole.OleError
	if !errors.As(err, &oe) {
		return fmt.Errorf("com: %s: %w", op, err)
	}
	e := &cim.Error{Op: op, HResult: uint32(oe.Code()), Detail: strings.TrimSpace(oe.Description())}
	var info ole.EXCEPINFO
	if errors.As(oe.SubError(), &info) && info.SCODE() != 0 {
		e.HResult = info.SCODE()
	}
	return e
}
