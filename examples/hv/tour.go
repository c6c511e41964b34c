package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/examples/internal/tour"
	"github.com/anyvisor/anyvisor/hypervisor"
)

type tourCmd struct {
	Keep    bool          `help:"Leave what was made."`
	Memory  int64         `default:"128" help:"Memory of each machine in MiB."`
	Disk    int64         `default:"64" help:"Size of each disk in MiB."`
	Timeout time.Duration `default:"15m" help:"Time for all of it."`
}

func (k *tourCmd) Run(a *app) error {
	if a.DryRun {
		return usagef("tour can't be rehearsed, since each step needs the one before: try it on the fake (-c fake://)")
	}
	failed := tour.Run(a.ctx, a.c, a.out, tour.Options{Keep: k.Keep, MemoryBytes: k.Memory * hypervisor.MiB, DiskBytes: k.Disk * hypervisor.MiB, Limit: k.Timeout})
	if failed > 0 {
		return fmt.Errorf("%d steps of the tour failed", failed)
	}
	return nil
}
