package hvsim_test

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func Example() {
	sim, err := hvsim.Start(hvsim.Config{Hosts: []hvsim.HostConfig{{Name: "HV01"}, {Name: "HV02"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sim.Close()
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "web-01", Disks: []string{`C:\vm\web-01.vhdx`}, Running: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Clients connect to sim.Host(0).URL() as Administrator with sim.Password() and trust sim.CertPool().
	sim.Inject(hvsim.Fault{Op: "Job", Target: "MigrateVirtualSystemToHost", JobError: "the network is gone"})
	for _, m := range sim.Machines() {
		fmt.Println(m.Name, m.ID == ids[0], m.Host, m.State == 2, m.Disks)
	}
	// Output: web-01 true HV01 true [C:\vm\web-01.vhdx]
}
