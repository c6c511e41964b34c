package hypervisortest

import (
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// guestResults: what guests report, and the state of a replication.
func guestResults() []row {
	facts := func(e *env, _ string) []hypervisor.GuestInfo {
		g, err := e.running().Guest(e.ctx)
		if !e.can(err) {
			e.unshown("this guest can't")
		}
		return []hypervisor.GuestInfo{g}
	}
	execs := func(e *env, field string) []hypervisor.ExecResult {
		script := map[string]string{"ExitCode": "exit 7", "Stdout": "echo out", "Stderr": "echo err >&2"}[field]
		x, err := e.running().Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", script}, User: e.Login.Username, Password: e.Login.Password})
		if !e.can(err) {
			e.unshown("this guest can't")
		}
		return []hypervisor.ExecResult{x}
	}
	clocks := func(e *env, _ string) []hypervisor.ClockReading {
		c, err := e.running().Clock(e.ctx)
		if !e.can(err) {
			e.unshown("this guest can't")
		}
		return []hypervisor.ClockReading{c}
	}
	replicas := func(e *env, _ string) []hypervisor.ReplicationInfo {
		if e.Replicate == nil {
			e.unshown("nothing replicates here")
			return nil
		}
		vm := e.create("vm")
		e.ok(e.Replicate(e.ctx, vm.ID(), hypervisor.ReplicationInfo{Role: hypervisor.RolePrimary, State: hypervisor.ReplicationError,
			Health: hypervisor.HealthCritical, LastAt: time.Now().Add(-time.Hour), Detail: "the link is down"}), "replicate")
		r, err := vm.Replication(e.ctx)
		e.ok(err, "Replication")
		return []hypervisor.ReplicationInfo{r}
	}
	return slices.Concat(
		resultsOf(caps{capability.GuestFacts}, facts, nil),
		resultsOf(caps{capability.GuestExec}, execs, map[string]func(hypervisor.ExecResult) bool{
			"ExitCode": func(x hypervisor.ExecResult) bool { return x.ExitCode == 7 },
			"Stdout":   func(x hypervisor.ExecResult) bool { return strings.TrimSpace(string(x.Stdout)) == "out" },
			"Stderr":   func(x hypervisor.ExecResult) bool { return strings.TrimSpace(string(x.Stderr)) == "err" },
		}),
		resultsOf(caps{capability.GuestClock}, clocks, map[string]func(hypervisor.ClockReading) bool{
			"Guest": func(c hypervisor.ClockReading) bool { return c.Guest.Year() > 2000 },
			"Host":  func(c hypervisor.ClockReading) bool { return time.Since(c.Host).Abs() < time.Hour },
		}),
		resultsOf(caps{capability.ReplicationRead}, replicas, nil),
	)
}
