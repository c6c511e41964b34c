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

// Close ends subscriptions, releases the COM objects and ends the workers.
func (s *session) Close() error {
	s.stop()
	s.subs.Wait()
	_ = s.w.do(context.Background(), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sp := range s.spaces {
			sp.Close()
		}
		clear(s.spaces)
		if s.manager != nil {
			// Dispose also undoes the CoInitializeEx of the manager's making.
			s.manager.Dispose()
			s.manager = nil
		}
		return nil
	})
	s.w.stop()
	return nil
}

// space returns the connection to a namespace. It runs on a worker.
func (s *session) space(ns string) (*wmi.WmiSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.spaces[ns]; sp != nil {
		return sp, nil
	}
	if s.manager == nil {
		return nil, cim.ErrClosed
	}
	sp, err := s.manager.GetSession(strings.ReplaceAll(ns, "/", `\`), s.cfg.Server, "", s.cfg.User, s.cfg.Password)
	if err != nil {
		return nil, wmiError("connect", err)
	}
	if err := connect(sp); err != nil {
		return nil, wmiError("connect", err)
	}
	s.spaces[ns] = sp
	return sp, nil
}

// Authentication and impersonation levels of the scripting API
// (wbemAuthenticationLevelPktPrivacy, wbemImpersonationLevelImpersonate).
const (
	levelPacketPrivacy = 6
	levelImpersonate   = 3
)

// connect does what WmiSession.Connect does, but leaves the server's name as
// it is: Connect joins it with the domain by a dot, even if there is none, and
// prints a stack trace when a call fails.
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

// Query implements cim.Session. COM has no pages to hand on, so the rows are
// all read before the first is yielded.
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
	s.calls.Add(1)
	if s.cfg.OnCall != nil {
		s.cfg.OnCall(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closed, cancel)()
	err := s.w.do(ctx, f)
	if err != nil && s.closed.Err() != nil {
		return cim.ErrClosed
	}
	return err
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

// Subscribe implements cim.Session with a semisynchronous event query. Each
// wait occupies a worker for EventWait at most.
func (s *session) Subscribe(ctx context.Context, ns, wql string) iter.Seq2[*cim.Instance, error] {
	return func(yield func(*cim.Instance, error) bool) {
		s.subs.Add(1)
		defer s.subs.Done()
		var list *wmi.WmiSynchronousEventsList
		err := s.do(ctx, func() error {
			sp, err := s.space(ns)
			if err != nil {
				return err
			}
			list, err = sp.ExecNotificationQuery(wql)
			return wmiError("subscribe", err)
		})
		if err != nil {
			yield(nil, err)
			return
		}
		defer s.w.do(context.WithoutCancel(ctx), func() error { list.Close(); return nil })
		for {
			ev, err := s.nextEvent(ctx, list)
			switch {
			case cim.KindOf(err) == cim.Timeout:
				continue
			case err != nil:
				yield(nil, err)
				return
			case !yield(ev, nil):
				return
			}
		}
	}
}

func (s *session) nextEvent(ctx context.Context, list *wmi.WmiSynchronousEventsList) (ev *cim.Instance, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.closed.Err() != nil {
		return nil, cim.ErrClosed
	}
	// The wait is not left before its end, because the list must not be
	// closed while it is used; it is short.
	err = s.w.do(context.WithoutCancel(ctx), func() error {
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
