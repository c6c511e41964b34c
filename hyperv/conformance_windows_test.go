package hyperv

import (
	"errors"
	"testing"
	"time"

	ole "github.com/go-ole/go-ole"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/comfacade"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// startCOM starts a simulation whose hosts are reached through COM by
// github.com/microsoft/wmi, the first one being this machine.
func startCOM(t interface {
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}, c hvsim.Config) *site {
	k := newClock()
	c.Clock, c.JobTime = k.now, jobTime
	sim, err := hvsim.Start(c)
	if err != nil {
		t.Fatalf("hvsim: %v", err)
	}
	var oe *ole.OleError
	if err := ole.CoInitializeEx(0, ole.COINIT_MULTITHREADED); err != nil && !(errors.As(err, &oe) && oe.Code() <= 1) {
		t.Fatalf("CoInitializeEx: %v", err)
	}
	revoke, err := comfacade.Register(sim)
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(revoke(), sim.Close()); err != nil {
			t.Errorf("%v", err)
		}
	})
	cfg := Config{Transport: TransportCOM, PollFirst: time.Millisecond, PollLast: 20 * time.Millisecond, EventInterval: 50 * time.Millisecond}
	for _, h := range sim.Hosts() {
		cfg.Hosts = append(cfg.Hosts, h.Name())
	}
	return &site{sim, cfg, k}
}

func TestConformanceCOM(t *testing.T) {
	hypervisortest.Run(t, harness("COM", func(t hypervisortest.T, c hvsim.Config) *site { return startCOM(t, c) }))
}

// TestCOMFaults: what goes wrong over COM has the same kinds as over
// WS-Management.
func TestCOMFaults(t *testing.T) {
	s := startCOM(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {}, {NoHyperV: true}}})
	open := func(cfg Config) error {
		c, err := Open(t.Context(), cfg, nil)
		if err == nil {
			c.Close()
		}
		return err
	}
	cfg := s.config
	cfg.Hosts = []string{"HV03"}
	if err := open(cfg); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a host without Hyper-V: %v", err)
	}
	cfg.Hosts = []string{"HV99"}
	if err := open(cfg); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	cfg.Hosts, cfg.Username, cfg.Password = []string{"HV02"}, "Administrator", "wrong"
	if err := open(cfg); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("a wrong password: %v", err)
	}
	cfg.Password = hypervisor.Secret(s.sim.Password())
	if err := open(cfg); err != nil {
		t.Errorf("another machine with credentials: %v", err)
	}
	c := openSite(t, s)
	vm := create(t, c, small(`it's "a" <vm> ]]>`))
	s.sim.Inject(hvsim.Fault{Op: "Query", HRESULT: 0x80041003})
	if _, err := vm.Info(t.Context()); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("access denied: %v", err)
	}
	s.sim.Inject(hvsim.Fault{Op: "Job", Target: "RequestStateChange", Forget: true})
	if _, err := vm.Start(t.Context()).Wait(t.Context()); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("a forgotten job: %v", err)
	}
}
