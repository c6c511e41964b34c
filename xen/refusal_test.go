package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestChangedPassword(t *testing.T) {
	w := newWorld(t, xapisim.Config{Hosts: 2})
	hostile.ChangedPassword(t, w.c, func() {
		w.sim.RefuseLogins(true)
		w.sim.ResetCalls()
		w.sim.ExpireSessions()
	}, func() int { return w.sim.Calls()["session.login_with_password"] })
}
