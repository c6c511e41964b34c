// Lab installs what the test labs need, and runs one for use by hand.
//
//	lab install   installs the Debian packages of the KVM lab, libvirt's headers for cgo included
//	lab kvm       starts two libvirt hosts, prints their URIs, and stops them at the end of input
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
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
		return fmt.Errorf("usage: lab install|kvm")
	}
	switch args[0] {
	case "install":
		return lab.Install(ctx, kvmlab.Packages...)
	case "kvm":
		return runKVM(ctx)
	}
	return fmt.Errorf("unknown lab %q: there are install and kvm", args[0])
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
	go func() {
		<-ctx.Done()
		os.Stdin.Close()
	}()
	io.Copy(io.Discard, os.Stdin)
	return l.Stop()
}
