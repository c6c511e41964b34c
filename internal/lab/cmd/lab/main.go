// Lab installs what the test labs need, and runs one for use by hand.
//
//	lab install   installs the Debian packages of all labs and tests, libvirt's headers for cgo included
//	lab kvm       starts two libvirt/QEMU hosts, prints their URIs, and stops them at the end of input
//	lab xen       does the same with two Xen hosts
//	lab vfio      does the same with a nested host that has devices to pass through
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/lab/vfiolab"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: lab install|kvm|xen|vfio")
	}
	switch args[0] {
	case "install":
		return lab.Install(ctx, slices.Concat(xenlab.Packages, kvmlab.Packages, lab.XAPIClients)...)
	case "kvm":
		return runKVM(ctx)
	case "xen":
		return runXen(ctx)
	case "vfio":
		return runVFIO(ctx)
	}
	return fmt.Errorf("unknown lab %q: there are install, kvm, xen and vfio", args[0])
}

func runKVM(ctx context.Context) error {
	l, err := kvmlab.Start(ctx, kvmlab.Config{Hosts: 2})
	if err != nil {
		return err
	}
	for _, h := range l.Hosts {
		fmt.Printf("%s\t%s\t%s\n", h.Name, h.URI, h.TCPURI)
	}
	fmt.Printf("kernel\t%s\ninitrd\t%s\nshared\t%s\n", l.Kernel, l.Initrd, l.Shared)
	await(ctx)
	return l.Stop()
}

func runXen(ctx context.Context) error {
	l, err := xenlab.Start(ctx, xenlab.Config{Hosts: 2})
	if err != nil {
		return err
	}
	for _, h := range l.Hosts {
		fmt.Printf("%s\t%s\t%s\t%s\t%s\n", h.Name, h.URI, h.SSHURI, h.PeerURI, h.MigrateURI)
	}
	await(ctx)
	return l.Stop()
}

// await returns at the end of standard input or of ctx.
func await(ctx context.Context) {
	go func() {
		<-ctx.Done()
		os.Stdin.Close()
	}()
	io.Copy(io.Discard, os.Stdin)
}

func runVFIO(ctx context.Context) error {
	l, err := vfiolab.Start(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("vfio1\t%s\nkernel\t%s\ninitrd\t%s\n", l.URI, l.Kernel, l.Initrd)
	await(ctx)
	return l.Stop()
}
