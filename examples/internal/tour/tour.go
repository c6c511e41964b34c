// Package tour shows what a hypervisor can do: it makes a machine, snapshots
// it, clones it, makes a template and deploys it, migrates a running machine
// and gives it a GPU, and then removes what it made. It reports what the
// platform can't do, with the reason.
package tour

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Options are those of Run.
type Options struct {
	Keep        bool          // leave what was made
	MemoryBytes int64         // of each machine; 0 means 128 MiB
	DiskBytes   int64         // of each machine; 0 means 64 MiB
	Limit       time.Duration // for all steps but the last, which removes what was made; 0 means 15 minutes
}

// Run takes the tour and prints its steps, then all of them as a table. It
// returns the number of steps that failed. A missing feature of the platform
// is not a failure.
func Run(ctx context.Context, c *hypervisor.Client, out io.Writer, o Options) (failed int) {
	d := c.Describe()
	fmt.Fprintf(out, "%s %s (driver %s) at %s\n\n", d.Product, d.Version, d.Driver, d.Endpoint)
	bounded, stop := context.WithTimeout(ctx, cmp.Or(o.Limit, 15*time.Minute))
	defer stop()
	t := &tour{c: c, show: newShow(out), prefix: "tour-" + time.Now().Format("150405.000"),
		memory: cmp.Or(o.MemoryBytes, 128*hypervisor.MiB), disk: cmp.Or(o.DiskBytes, 64*hypervisor.MiB)}
	t.all(bounded)
	if o.Keep {
		t.show.line("kept: %v", t.made)
	} else {
		t.cleanup(context.WithoutCancel(ctx))
	}
	t.show.table()
	return t.show.failed
}
