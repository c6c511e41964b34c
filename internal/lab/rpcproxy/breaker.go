package rpcproxy

import (
	"fmt"
	"sync"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// Breaker loses or delays answers to requests that change something, for the
// suite's area faults. all are the proxies between the Client and each of its hosts.
// Of each kind of request in an operation the first ones lose their answers,
// up to most; in a short run the first one. If most is more than 1, the answer
// to the first one is also late.
func Breaker(most int, all ...*Proxy) *hypervisortest.Breaker {
	if testing.Short() {
		most = 1
	}
	name := func(host int, procedure uint32) string {
		return fmt.Sprintf("%s of host %d", Changing[procedure], host+1)
	}
	type request struct {
		to        *Proxy
		procedure uint32
	}
	requests := map[string]request{}
	for host, p := range all {
		for n := range Changing {
			requests[name(host, n)] = request{p, n}
		}
	}
	var broken *Proxy
	answer := func() {}
	return &hypervisortest.Breaker{
		Late: most > 1,
		Calls: func() (out []string) {
			for host, p := range all {
				for _, n := range p.Procedures() {
					if Changing[n] != "" {
						out = append(out, name(host, n))
					}
				}
			}
			return out
		},
		Break: func(call string, nth int, b hypervisortest.Breakage) {
			r := requests[call]
			broken = r.to
			if b.How != hypervisortest.Late {
				r.to.LoseAnswer(r.procedure, nth-1)
				return
			}
			healed := make(chan struct{})
			answer = sync.OnceFunc(func() { close(healed) })
			r.to.HoldAnswer(r.procedure, nth-1, func() { b.Acted(); <-healed })
		},
		Heal: func() bool {
			answer()
			p := broken
			broken = nil
			return p != nil && p.Heal()
		},
		Ways: func(_ string, nth int) []hypervisortest.Breakage {
			if nth > most {
				return nil
			}
			out := []hypervisortest.Breakage{{How: hypervisortest.After}}
			if nth == 1 && most > 1 {
				out = append(out, hypervisortest.Breakage{How: hypervisortest.Late})
			}
			return out
		},
	}
}
