// Command quickstart shows what a hypervisor can do: it makes a machine,
// snapshots it, clones it, makes a template and deploys it, migrates a running
// machine and gives it a GPU, and then removes what it made. What the platform
// can't do it says, with the reason.
//
//	go run ./examples/quickstart                                 # on the fake
//	go run ./examples/quickstart -url kvm:///system              # on libvirt, needs cgo
//	go run ./examples/quickstart -url xapi://root@pool.example/
//
// A password comes from the environment variable ANYVISOR_PASSWORD. It ends
// with 1 if something failed; that the platform can't do something is no
// failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, diag io.Writer) int {
	f := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	f.SetOutput(diag)
	url := f.String("url", "fake://?delay=200ms", "the hypervisor, as hypervisor.Open takes it")
	user := f.String("user", "", "log in as; the password is in ANYVISOR_PASSWORD")
	keep := f.Bool("keep", false, "leave what was made")
	memory := f.Int64("memory", 128, "memory of the machines in MiB")
	disk := f.Int64("disk", 64, "size of their disks in MiB")
	limit := f.Duration("timeout", 15*time.Minute, "for all of it")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(diag, "quickstart: unexpected argument %q\n", f.Arg(0))
		return 2
	}
	o := &hypervisor.Options{}
	if *user != "" {
		o.Credentials = &hypervisor.Credentials{Username: *user, Password: os.Getenv("ANYVISOR_PASSWORD")}
	}
	c, err := hypervisor.Open(ctx, *url, o)
	if err != nil {
		fmt.Fprintf(diag, "quickstart: %v\n", err)
		return 1
	}
	defer c.Close()
	d := c.Describe()
	fmt.Fprintf(out, "%s %s (driver %s) at %s\n\n", d.Product, d.Version, d.Driver, d.Endpoint)

	bounded, stop := context.WithTimeout(ctx, *limit)
	defer stop()
	t := &tour{c: c, show: newShow(out), prefix: "quickstart-" + time.Now().Format("150405.000"), memory: *memory * hypervisor.MiB, disk: *disk * hypervisor.MiB}
	t.all(bounded)
	if *keep {
		t.show.line("kept: %v", t.made)
	} else {
		t.cleanup(context.WithoutCancel(ctx))
	}
	t.show.table()
	if t.show.failed > 0 {
		return 1
	}
	return 0
}
