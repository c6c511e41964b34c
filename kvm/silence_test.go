//go:build cgo

package kvm

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/silence"
)

// TestSilentPort opens a Client on a port that accepts connections and answers
// nothing.
func TestSilentPort(t *testing.T) {
	mute := silence.Start(t, "")
	for _, uri := range []string{"qemu+tcp://" + mute.Addr + "/system", "qemu+tls://" + mute.Addr + "/system"} {
		silence.Open(t, func(ctx context.Context) (*hypervisor.Client, error) {
			return Open(ctx, Config{Hosts: []string{uri}}, nil)
		})
	}
}

// heeded are the operations that TestContexts runs by default: those that read,
// and one or two that change a machine in each way. All of them take a quarter
// of an hour, since some boot guests.
var heeded = strings.Fields(`describe client.open client.close client.supports client.watch client.place client.balance task.find task.cancel
	vm.list vm.find vm.info vm.dependencies vm.check-migrate snapshot.list snapshot.find snapshot.info guest.info guest.clock
	template.list template.find template.info host.list host.find host.info datastore.list network.list volume.list
	vm.create vm.clone vm.start snapshot.create disk.attach`)

// TestContexts runs the suite's area contexts: both hosts accept connections
// and answer nothing. ANYVISOR_CONTEXTS=all runs all operations.
func TestContexts(t *testing.T) {
	l := theLab(t)
	only := []string{"contexts"}
	if os.Getenv("ANYVISOR_CONTEXTS") != "all" {
		only = nil
		for _, name := range heeded {
			only = append(only, "contexts/"+name)
		}
	}
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Label: "contexts", Only: only, Limit: 15 * time.Minute,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			b := backend(st.Context(), t, l, l.Hosts...)
			behindRelays(st, l, b)
			return b
		}})
}

// behindRelays lets both hosts fall silent, for the area contexts.
func behindRelays(t hypervisortest.T, l *kvmlab.Lab, b *hypervisortest.Backend) {
	cfg := config()
	var all []*silence.Relay
	for _, h := range l.Hosts {
		r := silence.Start(t, net.JoinHostPort(h.Address, "16509"))
		uri := "qemu+tcp://" + r.Addr + "/system"
		cfg.Hosts, all = append(cfg.Hosts, uri), append(all, r)
		cfg.Peers[uri] = Peer{URI: h.TCPURI, Migrate: "tcp://" + h.Address}
	}
	silence.Behind(t, b, func(ctx context.Context) (*hypervisor.Client, error) {
		d, err := open(ctx, cfg)
		if err != nil { // in the form that users get
			return Open(ctx, cfg, nil)
		}
		return hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), nil)
	}, all...)
}

// TestHostFallsSilent: a libvirtd that was there stops answering.
func TestHostFallsSilent(t *testing.T) {
	l := theLab(t)
	r := silence.Start(t, net.JoinHostPort(l.Hosts[0].Address, "16509"))
	cfg := config(l.Hosts[0])
	cfg.Hosts = []string{"qemu+tcp://" + r.Addr + "/system"}
	c, err := Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.CreateVM(t.Context(), spec(l, poolUUID(t, l.Hosts[0], "shared"))("mute")).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c, err := Open(context.Background(), config(l.Hosts[0]), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.VM(vm.ID()).Delete(context.Background(), hypervisor.DeleteDisks, nil).Wait(context.Background()); err != nil {
			t.Error(err)
		}
	})
	r.Mute()
	task := vm.Start(t.Context()) // its work is begun before it finds out
	silence.Unfinished(t, silence.Client(t, c, vm.ID()), task.ID())
	r.Close() // ends the calls that libvirt is still in
	if _, err := task.Wait(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrClosed {
		t.Errorf("the task that was under way: %v", err)
	}
}
