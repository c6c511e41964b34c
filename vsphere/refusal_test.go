package vsphere

import (
	"testing"

	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestChangedPassword(t *testing.T) {
	sim := startSim(t, vspheresim.Config{})
	c, err := Open(t.Context(), Config{Host: sim.URL().Host, Username: "user", Password: simLogin(sim.URL()).Password, PlainHTTP: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hostile.ChangedPassword(t, c, func() {
		sim.RefuseLogins(true)
		sim.ResetCalls()
		sim.DropSessions()
	}, func() int { return sim.Calls()["Login"] })
}
