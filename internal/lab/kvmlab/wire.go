package kvmlab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// wire is the network between the hosts and this machine: a bridge outside the hosts, and a cable
// from it to each host. Names and addresses are random, so that labs can run in parallel.
type wire struct {
	bridge string
	prefix string // first three octets of its /24
}

func newWire(ctx context.Context, dir string) (*wire, error) {
	routes, err := lab.Command(ctx, "ip", "-4", "route")
	if err != nil {
		return nil, err
	}
	for range 50 {
		var b [4]byte
		rand.Read(b[:])
		w := &wire{bridge: "av" + hex.EncodeToString(b[:]), prefix: fmt.Sprintf("10.%d.%d", 128+b[0]%64, b[1])}
		if strings.Contains(routes, w.prefix+".") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, wireFile), []byte(w.bridge), 0o644); err != nil {
			return nil, err
		}
		if _, err := lab.Command(ctx, "ip", "link", "add", w.bridge, "type", "bridge"); err != nil {
			return nil, fmt.Errorf("%w: no bridge can be made: %w", lab.ErrUnavailable, err)
		}
		_, err := lab.Command(ctx, "bash", "-ec", "ip addr add $2.254/24 dev $1; ip link set $1 up", "-", w.bridge, w.prefix)
		return w, err
	}
	return nil, fmt.Errorf("kvmlab: no free 10.x.y.0/24 network")
}

// This file of the lab's folder keeps the name of the bridge, for the case that nobody removes
// the bridge.
const wireFile = "bridge"

// sweepWire removes the bridge of a lab whose process died.
func sweepWire(dir string) {
	if name, err := os.ReadFile(filepath.Join(dir, wireFile)); err == nil {
		(&wire{bridge: string(name)}).remove()
	}
}

func (w *wire) address(host int) string { return fmt.Sprintf("%s.%d", w.prefix, host+1) }

// plug leads a cable into the network namespace of process pid and puts it on a bridge br0 there.
// The bridge has an address of its own: otherwise it may take over that of a guest's adapter, and
// when the guest moves both hosts have it.
func (w *wire) plug(ctx context.Context, host, pid int) error {
	cable := fmt.Sprintf("%sh%d", w.bridge, host+1)
	_, err := lab.Command(ctx, "bash", "-ec", `
ip link add $1 type veth peer name eth0 netns $3
ip link set $1 master $2 up
nsenter --net=/proc/$3/ns/net bash -ec "
ip link set lo up
ip link add br0 address 02:00:00:00:00:0$5 type bridge
ip link set eth0 master br0 up
ip addr add $4/24 dev br0
ip link set br0 up"`, "-", cable, w.bridge, fmt.Sprint(pid), w.address(host), fmt.Sprint(host+1))
	return err
}

func (w *wire) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := lab.Command(ctx, "ip", "link", "del", w.bridge)
	return err
}
