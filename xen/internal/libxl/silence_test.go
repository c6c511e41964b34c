//go:build cgo

package libxl

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
	"github.com/anyvisor/anyvisor/internal/silence"
)

// TestSilentPort opens a Client on a port that accepts connections and answers
// nothing.
func TestSilentPort(t *testing.T) {
	mute := silence.Start(t, "")
	silence.Open(t, func(ctx context.Context) (*hypervisor.Client, error) {
		return Open(ctx, Config{Hosts: []string{"xen+tcp://" + mute.Addr + "/"}}, nil)
	})
}

// heeded are the operations that TestContexts runs by default. All of them take
// half an hour. KVM's TestContexts has more: both drivers share the code.
var heeded = strings.Fields(`describe client.open client.close client.supports client.watch vm.list vm.info host.list
	datastore.list network.list volume.list vm.create disk.attach`)

// TestContexts runs the suite's area contexts: both hosts accept connections and
// answer nothing. It waits for no guest, since boots take too long here.
// ANYVISOR_CONTEXTS=all runs all operations.
func TestContexts(t *testing.T) {
	l := theLab(t)
	only := []string{"contexts"}
	if os.Getenv("ANYVISOR_CONTEXTS") != "all" {
		only = nil
		for _, name := range heeded {
			only = append(only, "contexts/"+name)
		}
	}
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "libxl", Rung: hypervisortest.Real, Label: "contexts", Only: only, Limit: 15 * time.Minute,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			b := backend(t, l)
			behindRelays(st, l, b)
			b.Break.NoBoot = true
			return b
		}})
}

// behindRelays lets both hosts fall silent, for the area contexts.
func behindRelays(t hypervisortest.T, l *xenlab.Lab, b *hypervisortest.Backend) {
	cfg := Config{Peers: map[string]Peer{}}
	var all []*silence.Relay
	for _, h := range l.Hosts {
		u, err := url.Parse(h.URI)
		if err != nil {
			t.Fatalf("%v", err)
		}
		r := silence.Start(t, u.Host)
		uri := "xen+tcp://" + r.Addr + "/"
		cfg.Hosts, all = append(cfg.Hosts, uri), append(all, r)
		cfg.Peers[uri] = Peer{Migrate: h.MigrateURI}
	}
	silence.Behind(t, b, func(ctx context.Context) (*hypervisor.Client, error) { return Open(ctx, cfg, nil) }, all...)
}
