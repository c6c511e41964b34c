package hypervisortest

import (
	"context"
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Breaker breaks the connection between Backend.Client and its platform. The
// areas "faults" and "contexts" need one. Clients that Backend.Reopen opens
// may share the connection: the suite uses them while nothing is broken. The
// area faults needs everything except Silence; contexts needs only Silence
// and Heal.
type Breaker struct {
	// Calls returns the calls that Client has sent since the last time Calls
	// was called, oldest first, by their names in the platform's protocol.
	// Calls that need not be broken may be left out.
	Calls func() []string
	// Break breaks the nth call of that name from now on. 1 means the next
	// one.
	Break func(call string, nth int, b Breakage)
	// Heal ends Break and Silence and reports whether anything was broken.
	Heal func() bool
	// Ways returns the breakages to try at the nth call of a name in an
	// operation. An empty result leaves the call as it is. Nil means Before,
	// After and Expire for every call.
	Ways func(call string, nth int) []Breakage
	// Late means that Break can hold back answers, and that Ways wants that
	// for calls that change something. The suite then requires that each
	// operation with a task has such a call.
	Late bool
	// Reads returns how often in a row a call may be broken without the
	// operation failing, because the call only reads and is repeated. Nil
	// means 0.
	Reads func(call string) int
	// NoBoot skips waiting for guests to boot, where that takes long. The
	// content of a guest's memory is then not checked.
	NoBoot bool
	// Limit is the time that an operation may take with a call broken; 0
	// means 30 seconds.
	Limit time.Duration
	// Machines returns the number of machines and templates that the
	// platform's own tool lists, hidden ones too. If it is nil, nothing shows
	// that a hidden one is left.
	Machines func(ctx context.Context) (int, error)
	// Settle waits until the platform has finished its work.
	Settle func(ctx context.Context) error

	// Silence makes the server accept connections and answer nothing. Nothing
	// sent to it arrives, from Client and from those that Backend.Reopen
	// opens. With cut, existing connections are closed first, so that the
	// next call has to make a new one. Heal closes the silent connections. If
	// Silence is nil, the Harness must explain in NotYet why the area
	// contexts is not run.
	Silence func(cut bool)
}

// How is the point at which a call breaks.
type How string

const (
	// Before means that the connection breaks and the call never arrives.
	Before How = "before"
	// Inside means that the platform acts, and the connection breaks in the
	// middle of its answer.
	Inside How = "inside"
	// After means that the platform acts and its answer is lost.
	After How = "after"
	// Expire means that the session has ended and the platform reports it.
	Expire How = "expired"
	// Refuse means that the platform refuses the call with an error of
	// Breakage.Kind, or gives up in the middle of the work.
	Refuse How = "refused"
	// Late means that the platform acts at once and its answer comes after
	// Heal. The caller's context ends in between. It is only for a Breaker
	// with Late set.
	Late How = "late"
)

// Breakage is one way in which a call goes wrong.
type Breakage struct {
	How How
	// Then is the number of further calls that never arrive either; negative
	// means all until Heal. It is for Before, Inside and After.
	Then int
	Kind hypervisor.Kind // of Refuse
	// Acted must be called, with Late, when the platform has acted.
	Acted func()
}

// String describes the breakage in the names of sub-tests: "after, then -1".
func (b Breakage) String() string {
	switch {
	case b.How == Refuse:
		return fmt.Sprintf("%s as %s", b.How, b.Kind)
	case b.Then != 0:
		return fmt.Sprintf("%s, then %d", b.How, b.Then)
	}
	return string(b.How)
}

// ways are the breakages of a call.
func (k *Breaker) ways(call string, nth int) []Breakage {
	if k.Ways != nil {
		return k.Ways(call, nth)
	}
	out := []Breakage{{How: Before}, {How: After}, {How: Expire}}
	if k.Late && nth == 1 {
		out = append(out, Breakage{How: Late})
	}
	return out
}

func (k *Breaker) reads(call string) int {
	if k.Reads == nil {
		return 0
	}
	return k.Reads(call)
}

// target is one call to break in one way.
type target struct {
	call string
	nth  int
	b    Breakage
}

func (x target) String() string { return fmt.Sprintf("%s at %s %d", x.b, x.call, x.nth) }

// targets are the breakages to try for an operation that makes these calls.
func (k *Breaker) targets(calls []string) []target {
	var out []target
	times := map[string]int{}
	for _, call := range calls {
		times[call]++
		for _, b := range k.ways(call, times[call]) {
			out = append(out, target{call, times[call], b})
		}
	}
	return out
}
