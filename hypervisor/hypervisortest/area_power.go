package hypervisortest

import (
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// power: every operation from every state, repeated. Memory survives pause
// and suspend.
var power = area{"power", []row{
	{name: "off", run: powerOff},
	{name: "absent", run: powerAbsent},
	{name: "start", proves: caps{capability.VMStart}, run: powerStart},
	{name: "direct-boot", proves: caps{capability.BootDirect}, run: powerDirectBoot},
	{name: "pause", proves: caps{capability.PowerPause}, run: powerPause},
	{name: "reset", proves: caps{capability.PowerReset}, run: powerReset},
	{name: "suspend", proves: caps{capability.PowerSuspend}, run: powerSuspend},
	{name: "shutdown", proves: caps{capability.PowerShutdown}, run: powerShutdown},
	{name: "power-off", proves: caps{capability.VMStart}, run: powerOffRunning},
}}

func (e *env) wrongState(t *hypervisor.Task[hypervisor.None], what string) {
	e.Helper()
	e.oneOf(errOf(e, t), what, hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
}

func powerOff(e *env) {
	vm := e.create("vm")
	must(e, vm.PowerOff(e.ctx), "PowerOff of a machine that is off")
	e.wrongState(vm.Resume(e.ctx), "Resume of a machine that is off")
	e.wrongState(vm.Pause(e.ctx), "Pause of a machine that is off")
	e.wrongState(vm.Suspend(e.ctx), "Suspend of a machine that is off")
	e.wrongState(vm.Reset(e.ctx), "Reset of a machine that is off")
	if e.has(capability.PowerShutdown) {
		must(e, vm.Shutdown(e.ctx, nil), "Shutdown of a machine that is off")
	}
	e.state(vm, hypervisor.StateOff, "operations that make no sense")
}

func powerAbsent(e *env) {
	absent := e.c.VM(e.AbsentVM)
	for what, t := range map[string]*hypervisor.Task[hypervisor.None]{
		"Start": absent.Start(e.ctx), "PowerOff": absent.PowerOff(e.ctx), "Pause": absent.Pause(e.ctx), "Reset": absent.Reset(e.ctx),
	} {
		e.oneOf(errOf(e, t), what+" of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)
	}
}

func powerStart(e *env) {
	vm := e.running()
	e.state(vm, hypervisor.StateRunning, "Start")
	must(e, vm.Start(e.ctx), "Start of a running machine")
	must(e, vm.Resume(e.ctx), "Resume of a running machine")
	e.state(vm, hypervisor.StateRunning, "Start and Resume of a running machine")
	if e.info(vm).Host == "" {
		e.Errorf("a running machine has no host")
	}
}

func powerDirectBoot(e *env) {
	if e.Spec("x").Boot == nil {
		e.unshown("the harness's machines don't boot a kernel directly")
		return
	}
	e.state(e.running(), hypervisor.StateRunning, "Start")
}

func powerPause(e *env) {
	vm := e.running()
	n := e.uptime(vm)
	for range 2 {
		must(e, vm.Pause(e.ctx), "Pause")
	}
	e.state(vm, hypervisor.StatePaused, "Pause")
	e.wrongState(vm.Start(e.ctx), "Start of a paused machine")
	must(e, vm.Resume(e.ctx), "Resume from Paused")
	e.state(vm, hypervisor.StateRunning, "Resume")
	e.sameBoot(vm, n, "Pause and Resume")
}

func powerReset(e *env) {
	vm := e.running()
	must(e, vm.Reset(e.ctx), "Reset")
	e.state(vm, hypervisor.StateRunning, "Reset")
	e.booted(vm)
}

func powerSuspend(e *env) {
	vm := e.running()
	n := e.uptime(vm)
	for range 2 {
		must(e, vm.Suspend(e.ctx), "Suspend")
	}
	e.state(vm, hypervisor.StateSuspended, "Suspend")
	e.wrongState(vm.Pause(e.ctx), "Pause of a suspended machine")
	must(e, vm.Resume(e.ctx), "Resume from Suspended")
	e.state(vm, hypervisor.StateRunning, "Resume")
	e.sameBoot(vm, n, "Suspend and Resume")
	must(e, vm.Suspend(e.ctx), "Suspend again")
	must(e, vm.Start(e.ctx), "Start from Suspended")
	e.state(vm, hypervisor.StateRunning, "Start of a suspended machine")
	e.sameBoot(vm, n, "Suspend and Start")
	must(e, vm.Suspend(e.ctx), "Suspend a third time")
	must(e, vm.PowerOff(e.ctx), "PowerOff of a suspended machine")
	e.state(vm, hypervisor.StateOff, "PowerOff of a suspended machine")
}

func powerShutdown(e *env) {
	vm := e.running()
	s, err := vm.Supports(e.ctx, capability.PowerShutdown)
	e.ok(err, "Supports(%s) of a running machine", capability.PowerShutdown)
	err = errOf(e, vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: 2 * time.Minute}))
	if s.Level == hypervisor.LevelNo {
		e.refused(err, capability.PowerShutdown, vm.ID().Ref())
		e.unshown("this guest can't be shut down: %s", s.Detail)
		return
	}
	e.ok(err, "Shutdown")
	e.state(vm, hypervisor.StateOff, "Shutdown")
	must(e, vm.Shutdown(e.ctx, nil), "Shutdown of a machine that is off")
}

func powerOffRunning(e *env) {
	vm := e.running()
	must(e, vm.PowerOff(e.ctx), "PowerOff")
	e.state(vm, hypervisor.StateOff, "power off")
	for range e.site.s.h.Repeat {
		must(e, vm.PowerOff(e.ctx), "PowerOff again")
	}
	e.state(vm, hypervisor.StateOff, "power off again")
}
