// Package fleet carries out a plan on many machines: in waves, within limits,
// and again after the program that began it was killed.
//
//	p := &fleet.Plan{
//		ID:      "patch-2026-12",
//		Clients: map[string]*hypervisor.Client{"dc1": c},
//		Labels:  map[string]string{"tier": "web"},
//		Steps:   []fleet.Step{{Name: "restart", Do: restart}},
//		Waves:   []fleet.Wave{{Count: 1}, {Percent: 10}, {}},
//		Limits:  fleet.Limits{Total: 50, PerHost: 4},
//	}
//	summary, err := fleet.Do(ctx, p)
//
// A Plan describes the work, an Engine remembers how much of it is done.
// Memory is an engine for scripts and tests; package fleet/dbosfleet, in a
// module of its own, keeps runs in an SQLite file or in PostgreSQL. DeployN,
// MoveN, Rolling, RestartHosts and CleanUp make plans for common work.
//
// # Exactly once
//
// An engine runs each step at least once: a step that was at work when its
// worker was killed runs again. Attempt.Token is then the same, and
// Attempt.Task is the task that the step began before. A step that passes the
// token on, or uses Await, has its effect once.
//
// # Words
//
// A target is what the steps work on, usually a machine. A run is one
// execution of a plan, with the plan's ID. A worker is a call of Engine.Work.
package fleet
