//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

const (
	blockSize  = 4096
	firstBlock = 256
)

// TestEveryWriteIsKept has a guest write numbered blocks past every cache,
// while several Clients, as processes would, clone the machine, snapshot it and
// delete the snapshots. Every block whose write was confirmed to the guest is there
// afterwards, by what the images' headers say; a clone has all blocks up to one.
func TestEveryWriteIsKept(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	var clients []*hypervisor.Client
	for range 6 {
		c, err := Open(ctx, config(l.Hosts...), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	vm := running(t, ctx, l, clients[0], spec(l, poolUUID(t, l.Hosts[0], "shared"))("writes"))
	sh := func(script string) string {
		t.Helper()
		r, err := vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(r.Stdout))
	}
	sh(fmt.Sprintf(`cat >/tmp/write <<'END'
i=0
while [ ! -e /tmp/stop ]; do
	printf %%0%[1]dd $i | dd of=/dev/vda bs=%[1]d seek=$((%[2]d + i)) iflag=fullblock oflag=direct conv=notrunc 2>/dev/null && echo $i >/tmp/acked.new && mv /tmp/acked.new /tmp/acked
	i=$((i + 1))
done
echo >/tmp/stopped
END
sh /tmp/write >/dev/null 2>&1 </dev/null &`, blockSize, firstBlock))

	var mu sync.Mutex
	var clones []hypervisor.VMID
	var wg sync.WaitGroup
	for n, c := range clients {
		wg.Go(func() {
			mine := c.VM(vm.ID())
			for round := range 3 {
				var err error
				switch name := fmt.Sprintf("writes-%d-%d", n, round); n {
				case 4, 5:
					var s *hypervisor.Snapshot
					if s, err = mine.CreateSnapshot(ctx, name, nil).Wait(ctx); err == nil {
						_, err = s.Delete(ctx, nil).Wait(ctx)
					}
				default:
					var k *hypervisor.VM
					mode := hypervisor.CloneModeLinked
					if n == 3 {
						mode = hypervisor.CloneModeFull
					}
					if k, err = mine.Clone(ctx, name, &hypervisor.CloneOptions{Mode: mode}).Wait(ctx); err == nil {
						mu.Lock()
						clones = append(clones, k.ID())
						mu.Unlock()
					}
				}
				if err != nil && !errors.Is(err, hypervisor.ErrBusy) {
					t.Errorf("work %d of Client %d: %v", round, n, err)
				}
			}
		})
	}
	wg.Wait()
	sh("touch /tmp/stop")
	if err := lab.WaitFor(ctx, 200*time.Millisecond, func(context.Context) error {
		if sh("ls /tmp/stopped || :") == "" {
			return errors.New("the guest still writes")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	acked, err := strconv.Atoi(sh("cat /tmp/acked"))
	if err != nil {
		t.Fatal(err)
	}
	if len(clones) == 0 || acked < 20 {
		t.Fatalf("%d clones were made and %d blocks written: that shows nothing", len(clones), acked+1)
	}
	if err := sameChain(ctx, l, vm.ID()); err != nil {
		t.Error(err)
	}
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if has, all := written(t, ctx, l, vm.ID()); has != acked+1 || all != has {
		t.Errorf("of %d blocks the machine has %d, and %d up to the first that is missing", acked+1, all, has)
	}
	for _, id := range clones {
		if has, all := written(t, ctx, l, id); all != has {
			t.Errorf("clone %s has %d blocks, and %d up to the first that is missing", id, all, has)
		}
	}
	for _, id := range clones {
		if _, err := clients[0].VM(id).Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}

// written reads a machine's disk along the headers of its images. It returns
// how many blocks there are up to the first that is missing, and how many in all.
func written(t *testing.T, ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) (first, all int) {
	t.Helper()
	top, err := firstDisk(ctx, l, id)
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	if err := run(ctx, "qemu-img", "convert", "-U", "-O", "raw", top, raw); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	missing := false
	for i := 0; (firstBlock+i+1)*blockSize <= len(b); i++ {
		switch string(b[(firstBlock+i)*blockSize : (firstBlock+i+1)*blockSize]) {
		case fmt.Sprintf("%0*d", blockSize, i):
			all++
		default:
			missing = true
		}
		if !missing {
			first++
		}
	}
	return first, all
}
