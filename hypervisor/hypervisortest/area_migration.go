package hypervisortest

import (
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// migration: checks change nothing, moves keep memory and content, and
// refusals list every blocker.
var migration = area{"migration", []row{
	{name: "check-changes-nothing", needs: caps{capability.MigrateLive}, run: migrationCheck},
	{name: "same-host-is-blocked", needs: caps{capability.MigrateLive}, run: migrationSameHost},
	{name: "absent", needs: caps{capability.MigrateLive}, run: migrationAbsent},
	{name: "live-while-off", needs: caps{capability.MigrateLive}, run: migrationLiveOff},
	{name: "tuned", proves: caps{capability.MigrateTuning}, needs: caps{capability.MigrateLive}, run: migrationTuned},
	{name: "post-copy", proves: caps{capability.MigratePostCopy}, needs: caps{capability.MigrateLive}, run: migrationPostCopy},
	{name: "live", proves: caps{capability.MigrateLive}, run: migrationLive},
	{name: "cold", proves: caps{capability.MigrateCold}, run: migrationCold},
	{name: "storage", proves: caps{capability.MigrateStorage}, run: migrationStorage},
	{name: "absent-datastore", needs: caps{capability.MigrateStorage}, run: migrationNoDatastore},
	{name: "live-storage", proves: caps{capability.MigrateLiveStorage}, run: migrationLiveStorage},
	{name: "host-and-storage", proves: caps{capability.MigrateBoth}, run: migrationBoth},
	{name: "to-another-client", proves: caps{capability.MigrateCross}, run: migrationCross},
}}

// cargo makes a machine whose disk has the content "cargo".
func (e *env) cargo() *hypervisor.VM {
	e.Helper()
	vm := e.create("vm")
	e.write(vm, "cargo")
	return vm
}

func (e *env) runningCargo() *hypervisor.VM {
	e.Helper()
	return e.shared("cargo", e.cargo)
}

// otherHost returns a host that is up and does not have the machine.
func (e *env) otherHost(vm *hypervisor.VM) hypervisor.HostID {
	e.Helper()
	here := e.info(vm).Host
	for _, h := range e.hostIDs() {
		if h != here {
			return h
		}
	}
	e.Fatalf("migration is declared, and there is no second host")
	return ""
}

// migrate moves a machine and checks that its memory was kept.
func (e *env) migrate(vm *hypervisor.VM, o hypervisor.MigrateOptions, what string) hypervisor.MigrateResult {
	e.Helper()
	up := e.uptime(vm)
	r := must(e, vm.Migrate(e.ctx, o), "%s", what)
	e.state(vm, hypervisor.StateRunning, what)
	e.sameBoot(vm, up, what)
	return r
}

// arrived checks that a machine, once it is off, has its cargo.
func (e *env) arrived(vm *hypervisor.VM, after string) {
	e.Helper()
	e.off(vm)
	e.content(vm, "cargo", after)
}

func migrationCheck(e *env) {
	vm := e.runningCargo()
	from := e.info(vm)
	rep, err := vm.CheckMigrate(e.ctx, hypervisor.MigrateOptions{Host: e.otherHost(vm), Mode: hypervisor.MigrateModeLive})
	e.ok(err, "CheckMigrate")
	if !rep.OK() {
		e.Fatalf("CheckMigrate finds blockers: %+v", rep.Blockers)
	}
	if i := e.info(vm); i.Host != from.Host || i.State != hypervisor.StateRunning {
		e.Errorf("CheckMigrate changed the machine: on %s, %s", i.Host, i.State)
	}
}

func migrationSameHost(e *env) {
	vm := e.runningCargo()
	opt := hypervisor.MigrateOptions{Host: e.info(vm).Host, Mode: hypervisor.MigrateModeLive}
	same := func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonSameHost }
	rep, err := vm.CheckMigrate(e.ctx, opt)
	e.ok(err, "CheckMigrate to the same host")
	if !slices.ContainsFunc(rep.Blockers, same) {
		e.Errorf("CheckMigrate to the same host: %+v, want %q", rep, hypervisor.ReasonSameHost)
	}
	err = errOf(e, vm.Migrate(e.ctx, opt))
	var b *hypervisor.BlockedError
	if !errors.As(err, &b) {
		e.Fatalf("Migrate to the same host: %v (kind %s), want a *BlockedError", err, hypervisor.KindOf(err))
	}
	if !slices.ContainsFunc(b.Blockers, same) {
		e.Errorf("Migrate to the same host: blockers %+v, want %q among them", b.Blockers, hypervisor.ReasonSameHost)
	}
	for _, x := range b.Blockers {
		if x.Detail == "" || x.Reason == "" {
			e.Errorf("Migrate to the same host: a blocker lacks reason or detail: %+v", x)
		}
	}
	e.state(vm, hypervisor.StateRunning, "a refused migration")
}

func migrationAbsent(e *env) {
	vm := e.runningCargo()
	err := errOf(e, vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: "no-such-host"}))
	e.oneOf(err, "Migrate to an absent host", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
	_, err = e.c.VM(e.AbsentVM).CheckMigrate(e.ctx, hypervisor.MigrateOptions{Host: e.otherHost(vm)})
	e.kind(err, hypervisor.ErrNotFound, "CheckMigrate of an absent ID")
	e.state(vm, hypervisor.StateRunning, "refused migrations")
}

func migrationLiveOff(e *env) {
	vm := e.create("vm")
	err := errOf(e, vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: e.otherHost(vm), Mode: hypervisor.MigrateModeLive}))
	e.oneOf(err, "live Migrate of a machine that is off", hypervisor.ErrInvalidState, hypervisor.ErrIncompatible)
}

func migrationTuned(e *env) {
	vm := e.runningCargo()
	up := e.uptime(vm)
	// Where the capability is Partial either option may do. The area fields
	// has each.
	for _, o := range []hypervisor.MigrateOptions{{BandwidthBytes: 512 * hypervisor.MiB}, {Compress: true}} {
		o.Host = e.otherHost(vm)
		if _, err := vm.Migrate(e.ctx, o).Wait(e.ctx); e.can(err) {
			e.state(vm, hypervisor.StateRunning, "a tuned Migrate")
			e.sameBoot(vm, up, "a tuned Migrate")
			return
		}
	}
	e.Errorf("migrate.tuning is declared, and neither a limit of bandwidth nor compression is taken")
}

func migrationPostCopy(e *env) {
	vm := e.runningCargo()
	e.migrate(vm, hypervisor.MigrateOptions{Host: e.otherHost(vm), PostCopy: true}, "Migrate with PostCopy")
}

// There and back.
func migrationLive(e *env) {
	vm := e.runningCargo()
	for range 2 {
		to, up := e.otherHost(vm), e.uptime(vm)
		t := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeLive})
		last := -1.0
		for p, err := range t.Progress(e.ctx) {
			e.ok(err, "Progress of Migrate")
			if p.Fraction > 1 || p.Fraction >= 0 && p.Fraction < last-1e-9 && p.Phase == "" {
				e.Errorf("Progress went from %v to %v", last, p.Fraction)
			}
			last = p.Fraction
		}
		r := must(e, t, "Migrate to %s", to)
		if i := e.info(vm); i.Host != to || r.Host != "" && r.Host != to {
			e.Errorf("after Migrate to %s the machine is on %s, the result says %s", to, i.Host, r.Host)
		}
		e.state(vm, hypervisor.StateRunning, "Migrate")
		e.sameBoot(vm, up, "Migrate")
		if r.VM != vm.ID() || r.Downtime < -1 || r.Total < 0 {
			e.Errorf("Migrate's result is %+v", r)
		}
	}
	e.arrived(vm, "live migration")
}

func migrationCold(e *env) {
	vm := e.cargo()
	to := e.otherHost(vm)
	must(e, vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeCold}), "cold Migrate")
	if n := e.info(vm); n.Host != "" && n.Host != to || n.State != hypervisor.StateOff {
		e.Errorf("after cold Migrate to %s the machine is on %q and %s", to, n.Host, n.State)
	}
	e.content(vm, "cargo", "cold Migrate")
}
