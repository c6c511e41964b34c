package hyperv

import (
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/internal/silence"
)

func TestChangedPassword(t *testing.T) {
	for _, auth := range []Auth{AuthNTLM, AuthBasic} {
		for _, user := range []string{"Administrator", `CORP\Administrator`} {
			t.Run(string(auth)+"/"+user, func(t *testing.T) {
				t.Parallel()
				s := startSite(t, hvsim.Config{})
				r := silence.Start(t, s.config.Hosts[0])
				s.config.Hosts, s.config.Auth, s.config.Username = []string{r.Addr}, auth, user
				hostile.ChangedPassword(t, openSite(t, s), func() {
					s.sim.RefuseLogins(true)
					r.Cut() // NTLM logs connections in
				}, func() int { return s.sim.Calls()["login refused"] })
			})
		}
	}
}
