package hypervisortest

import (
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// close: a closed Client reports that it is closed, and a second Close does
// nothing.
var closing = area{"close", []row{
	{name: "ends-a-watch", run: closeWatch},
	{name: "calls-say-so", run: closeCalls},
}}

// other opens a Client of the row's own and makes it connect.
func (e *env) other() *hypervisor.Client {
	e.Helper()
	c, err := e.Reopen(e.ctx)
	e.ok(err, "Reopen")
	_, err = hypervisor.Collect(c.VMs(e.ctx, nil))
	e.ok(err, "VMs of the second Client")
	return c
}

// closeTwice closes a Client twice.
func (e *env) closeTwice(c *hypervisor.Client) {
	e.Helper()
	e.ok(c.Close(), "Close")
	e.ok(c.Close(), "second Close")
}

func closeWatch(e *env) {
	if e.Reopen == nil {
		e.unshown("the harness opens no second Client")
		return
	}
	watch, c, ctx := make(chan error, 1), e.other(), e.ctx
	go func() {
		var last error
		for _, err := range c.Watch(ctx, "") {
			last = err
		}
		watch <- last
	}()
	time.Sleep(20 * time.Millisecond)
	e.closeTwice(c)
	select {
	case err := <-watch:
		if err != nil {
			e.oneOf(err, "Watch of a Client that was closed", hypervisor.ErrClosed, hypervisor.ErrUnavailable, hypervisor.ErrUnauthenticated, hypervisor.ErrUnsupported)
		}
	case <-time.After(15 * time.Second):
		e.Errorf("Watch continues 15 s after Close")
	}
}

func closeCalls(e *env) {
	if e.Reopen == nil {
		e.unshown("the harness opens no second Client")
		return
	}
	c := e.other()
	vm := c.VM(e.create("vm").ID())
	e.closeTwice(c)
	_, err := vm.Info(e.ctx)
	e.kind(err, hypervisor.ErrClosed, "Info after Close")
	e.kind(errOf(e, vm.Start(e.ctx)), hypervisor.ErrClosed, "Start after Close")
	_, err = hypervisor.Collect(c.VMs(e.ctx, nil))
	e.kind(err, hypervisor.ErrClosed, "VMs after Close")
	e.kind(errOf(e, c.CreateVM(e.ctx, e.Spec(e.name("late")))), hypervisor.ErrClosed, "CreateVM after Close")
}
