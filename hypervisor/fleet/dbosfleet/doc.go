// Package dbosfleet keeps the runs of package fleet in an SQLite file or in
// PostgreSQL, with DBOS (github.com/dbos-inc/dbos-transact-golang).
//
//	e, err := dbosfleet.Open(ctx, dbosfleet.Config{URL: "sqlite:/var/lib/app/fleet.db"})
//	defer e.Close()
//	run, err := e.Start(ctx, plan)
//	err = e.Work(ctx, plan)
//
// A program that was killed opens the same store and calls Work with the same
// plan. Each target is a DBOS workflow and each step a DBOS step, so DBOS's
// own tools show them.
//
// Any number of programs may call Work on one store. One of them works on the
// runs, and the others wait: when it ends, is killed or loses the store, the
// next one takes over. So the limits of a plan hold for all of them together.
// A worker does not touch a run whose plan it was not given: give all workers
// of a store the same plans.
//
// All workers register DBOS's application version "anyvisor-fleet-1", whatever
// program they are, so that they recover each other's work; the shape of the
// plan decides whether they may. The environment variables DBOS__APPVERSION
// and DBOS__VMID would change that, and Work refuses to begin with them.
package dbosfleet
