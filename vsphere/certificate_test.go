package vsphere

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestThumbprintIsVerified: what the source vCenter is told to trust is the
// server that this driver trusts, whoever answers the connection.
func TestThumbprintIsVerified(t *testing.T) {
	sim := startSim(t, vspheresim.Config{Model: vspheresim.VCenter, TLS: true})
	attacker := httptest.NewUnstartedServer(http.NotFoundHandler())
	attacker.Config.ErrorLog = log.New(io.Discard, "", 0)
	attacker.StartTLS()
	defer attacker.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var to atomic.Value
	to.Store(sim.URL().Host)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to.Load().(string))
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
	x, err := connect(t.Context(), Config{Host: l.Addr().String(), Username: "user", Password: simLogin(sim.URL()).Password, Thumbprint: sim.Thumbprint()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := x.(*driver)
	defer d.Close()
	if got, err := d.thumbprint(t.Context()); err != nil || got != sim.Thumbprint() {
		t.Errorf("the thumbprint is %s (%v)", got, err)
	}
	to.Store(attacker.Listener.Addr().String())
	if got, err := d.thumbprint(t.Context()); err == nil || got != "" {
		t.Errorf("the attacker's thumbprint is %s (%v)", got, err)
	}
}

// TestCrossOverWeakSource: the other vCenter's password is not sent by a
// connection that is weaker than the one it was used on.
func TestCrossOverWeakSource(t *testing.T) {
	cfg := simConfig(vspheresim.VCenter)
	plain, other := startSim(t, cfg), cfg
	other.TLS = true
	source, target := startSim(t, other), startSim(t, other)
	open := func(sim *vspheresim.Sim, c Config) *hypervisor.Client {
		c.Host, c.Username, c.Password = sim.URL().Host, "user", simLogin(sim.URL()).Password
		cl, err := Open(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		return cl
	}
	dst := open(target, Config{Thumbprint: target.Thumbprint()})
	hosts, err := hypervisor.Collect(dst.Hosts(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		sim  *vspheresim.Sim
		c    Config
		weak bool
	}{
		{plain, Config{PlainHTTP: true}, true},
		{source, Config{Insecure: true}, true},
		{source, Config{Thumbprint: source.Thumbprint()}, false},
	} {
		src := open(k.sim, k.c)
		vm, err := src.CreateVM(t.Context(), spec("moves")).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := vm.CheckMigrate(t.Context(), hypervisor.MigrateOptions{To: dst, Host: hosts[0].ID})
		if refused := hypervisor.KindOf(err) == hypervisor.ErrUnsupported && strings.Contains(err.Error(), "password"); refused != k.weak {
			t.Errorf("plain %v insecure %v: %+v, %v", k.c.PlainHTTP, k.c.Insecure, r, err)
		}
		if _, err := vm.Delete(t.Context(), hypervisor.DeleteDisks, nil).Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
