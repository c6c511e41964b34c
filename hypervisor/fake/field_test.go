package fake_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// everything is a platform on which each field can be seen.
func everything() bench {
	hosts := fake.DefaultHosts(2)
	for i := range hosts {
		audio := fake.X710("0000:41:00.1", 0, 30) // shares its group
		audio.VFs = 0
		hosts[i].Devices = append(hosts[i].Devices, audio)
	}
	return bench{cfg: fake.Config{Hosts: hosts, HA: true, Login: login()}, other: &fake.Config{}}
}

func login() *hypervisor.Credentials {
	return &hypervisor.Credentials{Username: "operator", Password: "secret"}
}

// untold are the fields that the fake leaves empty.
var untold = map[string]string{
	"HAInfo.FailuresToTolerate": "the fake keeps no room",
}

// TestFieldMutants: no field can be ignored or left out unseen.
func TestFieldMutants(t *testing.T) {
	t.Parallel()
	hypervisortest.Mutants(t, everything().harness(""))
}
