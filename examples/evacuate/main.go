// Command evacuate moves every running machine away from a host by live
// migration and shows the progress. An interrupt cancels the move that is
// under way, and the true outcome is reported.
//
//	go run ./examples/evacuate -url 'xapi://root@pool.example' -host host-3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	_ "github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
	_ "github.com/anyvisor/anyvisor/kvm"
	_ "github.com/anyvisor/anyvisor/vsphere"
	_ "github.com/anyvisor/anyvisor/xen"
)

func main() {
	url := flag.String("url", "fake://", "where the hypervisors are")
	name := flag.String("host", "", "name of the host to empty; without it the hosts are listed")
	plan := flag.Bool("plan", false, "only check what could move")
	parallel := flag.Int("parallel", 2, "machines at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *url, *name, *plan, *parallel); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, name string, plan bool, parallel int) error {
	c, err := hypervisor.Open(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if name == "" {
		for h, err := range c.Hosts(ctx) {
			if err != nil {
				return err
			}
			fmt.Printf("%-20s %-12s %d running, %d MiB free\n", h.Name, h.State, h.Running, h.FreeBytes/hypervisor.MiB)
		}
		return nil
	}
	h, err := c.FindHost(ctx, name)
	if err != nil {
		return err
	}
	if plan {
		return check(ctx, c, h)
	}
	t := h.Evacuate(ctx, &hypervisor.EvacuateOptions{Parallel: parallel})
	for p, err := range t.Progress(ctx) {
		if err != nil {
			break // Run below reports the true outcome
		}
		fmt.Printf("%3.0f%% %s\n", 100*max(p.Fraction, 0), p.Phase)
	}
	r, err := t.Run(ctx, time.Minute)
	for _, m := range r.Moved {
		fmt.Printf("%s is on %s after %v, stood still for %v\n", m.VM, m.Host, m.Total, m.Downtime)
	}
	var e *hypervisor.Error
	if errors.As(err, &e) {
		for _, l := range e.Leftover {
			fmt.Println("still there:", l)
		}
	}
	return err
}

// check reports what blocks the move of each machine.
func check(ctx context.Context, c *hypervisor.Client, h *hypervisor.Host) error {
	for v, err := range c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief, Host: h.ID()}) {
		if err != nil {
			return err
		}
		recs, err := c.Place(ctx, hypervisor.PlaceRequest{VM: v.ID})
		if err != nil {
			fmt.Printf("%s: %v\n", v.Name, err)
			continue
		}
		for _, r := range recs {
			if r.Host == h.ID() {
				continue
			}
			rep, err := c.VM(v.ID).CheckMigrate(ctx, hypervisor.MigrateOptions{Host: r.Host})
			if err != nil {
				return err
			}
			fmt.Printf("%s to %s: %d blockers\n", v.Name, r.Host, len(rep.Blockers))
			for _, b := range rep.Blockers {
				fmt.Printf("   %s: %s\n", b.Reason, b.Detail)
			}
		}
	}
	return nil
}
