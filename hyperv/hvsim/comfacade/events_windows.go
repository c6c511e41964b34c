package comfacade

import (
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	ole "github.com/go-ole/go-ole"
)

// timedOut is wbemErrTimedout [D: WbemErrorEnum].
const timedOut = 0x80043001

// notify is ExecNotificationQuery. It returns an SWbemEventSource.
func (s *services) notify(query string) (any, error) {
	w, err := wbem.Watch(s.wmi, s.ns, query)
	if err != nil {
		return nil, err
	}
	return &bag{get: map[string]member{
		"Security_": value(newSecurity()),
		"NextEvent": func(a []any) (any, error) {
			wait := time.Duration(-1) // wbemTimeoutInfinite
			if len(a) > 0 {
				if n, ok := a[0].(int32); ok {
					wait = time.Duration(n) * time.Millisecond
				}
			}
			e, err := w.Next(wait)
			if err != nil {
				return nil, err
			}
			if e == nil {
				return nil, &wbem.Error{Code: timedOut, Text: "Timed out "}
			}
			return s.event(e), nil
		},
	}}, nil
}

// event shows an intrinsic event.
func (s *services) event(e *wbem.Event) automation {
	vals := map[string]any{"TargetInstance": &instance{s: s, i: e.Target}}
	if e.Previous != nil {
		vals["PreviousInstance"] = &instance{s: s, i: e.Previous}
	}
	b := &bag{iids: []*ole.GUID{iidObject, iidObjectEx}, get: map[string]member{}}
	for n, v := range vals {
		b.get[n] = value(v)
	}
	b.get["SystemProperties_"] = func([]any) (any, error) {
		return &bag{get: map[string]member{"Item": func(a []any) (any, error) {
			if text(a, 0) == "__CLASS" {
				return &bag{get: map[string]member{"Name": value("__CLASS"), "Value": value(e.Class)}}, nil
			}
			return nil, wbem.Errorf(wbem.NotFound, "")
		}}}, nil
	}
	return b
}
