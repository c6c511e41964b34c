package fake_test

import (
	"slices"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// breaker breaks calls with the faults of package fake.
func breaker(p *fake.Backend) *hypervisortest.Breaker {
	names := func() (out []string) {
		for _, c := range p.Calls() {
			out = append(out, string(c.Op))
		}
		p.ForgetCalls()
		return out
	}
	armed, nth, healed := "", 0, func() {}
	return &hypervisortest.Breaker{
		Limit: faultLimit,
		Late:  true,
		Calls: names,
		Break: func(call string, n int, b hypervisortest.Breakage) {
			armed, nth = call, n
			p.ForgetCalls()
			f := fake.Fault{Op: op.Name(call), Nth: n}
			switch b.How {
			case hypervisortest.Before:
				f.Lost, f.Count = fake.BeforeSend, 1+b.Then
			case hypervisortest.Inside:
				f.Lost, f.After = fake.Watching, 0.5
			case hypervisortest.After:
				f.Lost = fake.AfterSend
			case hypervisortest.Late:
				f.Lost = fake.LateAnswer
				end := make(chan struct{})
				healed = sync.OnceFunc(func() { close(end) })
				go func() {
					for !slices.ContainsFunc(p.Calls(), func(c fake.Call) bool { return string(c.Op) == call }) {
						select {
						case <-time.After(time.Millisecond):
						case <-end:
							return
						}
					}
					b.Acted() // the fake acts whether the caller still waits or not
				}()
			case hypervisortest.Expire:
				f.Expire = true
			case hypervisortest.Refuse:
				f.Err = &fake.NativeError{Kind: b.Kind, Text: "refused for a test"}
				if b.Kind == hypervisor.ErrExhausted { // in the middle
					f.After, f.Leftover = 0.5, true
				}
			}
			p.Fail(f)
		},
		Silence: func(bool) { p.Fail(fake.Fault{Op: "*", Lost: fake.NoAnswer, Count: -1}) },
		Heal: func() bool {
			healed()
			p.Heal()
			n := len(slices.DeleteFunc(names(), func(c string) bool { return c != armed }))
			defer func() { armed = "" }()
			return armed != "" && n >= nth
		},
		Ways: func(call string, _ int) []hypervisortest.Breakage {
			out := []hypervisortest.Breakage{{How: hypervisortest.Before}, {How: hypervisortest.Before, Then: 3}, {How: hypervisortest.After},
				{How: hypervisortest.Expire}, {How: hypervisortest.Refuse, Kind: hypervisor.ErrBusy}}
			if operation(call).Task {
				out = append(out, hypervisortest.Breakage{How: hypervisortest.Late}, hypervisortest.Breakage{How: hypervisortest.Inside}, hypervisortest.Breakage{How: hypervisortest.Refuse, Kind: hypervisor.ErrExhausted})
			}
			return out
		},
		Reads: func(call string) int {
			if o := operation(call); o.Task || o.Result == nil || o.Name == op.GuestExec {
				return 0
			}
			return 1
		},
	}
}

func operation(name string) hypervisor.Operation {
	all := hypervisor.Operations()
	if i := slices.IndexFunc(all, func(o hypervisor.Operation) bool { return string(o.Name) == name }); i >= 0 {
		return all[i]
	}
	return hypervisor.Operation{}
}
