// Command provision makes a number of machines from a template, several at a
// time, and prints them as a table. A second run with the same -run finds the
// existing machines and makes only the missing ones.
//
//	go run ./examples/provision -url fake:// -template golden -count 20
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"text/tabwriter"

	_ "github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
	_ "github.com/anyvisor/anyvisor/kvm"
	_ "github.com/anyvisor/anyvisor/vsphere"
	_ "github.com/anyvisor/anyvisor/xen"
)

func main() {
	url := flag.String("url", "fake://", "where the hypervisor is")
	template := flag.String("template", "", "name of the template; empty with fake:// makes one")
	count := flag.Int("count", 20, "how many machines")
	prefix := flag.String("prefix", "worker", "names are PREFIX-1 and so on")
	run := flag.String("run", "run-1", "name of this run, which makes it repeatable")
	linked := flag.Bool("linked", true, "share the template's disk instead of copying it")
	parallel := flag.Int("parallel", 4, "how many at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	c, err := hypervisor.Open(ctx, *url, &hypervisor.Options{Require: []capability.Name{capability.Templates}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	t, err := find(ctx, c, *template)
	if err != nil {
		log.Fatal(err)
	}
	opt := hypervisor.CloneOptions{Start: true, Labels: map[string]string{"run": *run}}
	if *linked {
		opt.Mode = hypervisor.CloneModeLinked
	}
	rows := make([]string, *count)
	var wg sync.WaitGroup
	slots := make(chan struct{}, *parallel)
	for i := range rows {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			name, o := fmt.Sprintf("%s-%d", *prefix, i+1), opt
			o.Token = *run + "/" + name
			vm, err := t.Deploy(ctx, name, &o).Wait(ctx)
			if err != nil {
				rows[i] = fmt.Sprintf("%s\t-\t%v", name, err)
				return
			}
			info, err := vm.Info(ctx)
			if err != nil {
				rows[i] = fmt.Sprintf("%s\t%s\t%v", name, vm.ID(), err)
				return
			}
			rows[i] = fmt.Sprintf("%s\t%s\t%s on %s", info.Name, info.ID, info.State, info.Host)
		})
	}
	wg.Wait()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSTATE")
	for _, r := range rows {
		fmt.Fprintln(w, r)
	}
	if err := w.Flush(); err != nil {
		log.Fatal(err)
	}
}

// find returns the template, or makes one if none is named.
func find(ctx context.Context, c *hypervisor.Client, name string) (*hypervisor.Template, error) {
	if name != "" {
		return c.FindTemplate(ctx, name)
	}
	t, err := c.FindTemplate(ctx, "golden")
	if !errors.Is(err, hypervisor.ErrNotFound) {
		return t, err
	}
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "golden", MemoryBytes: 512 * hypervisor.MiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(ctx)
	if err != nil {
		return nil, err
	}
	return vm.MarkTemplate(ctx).Wait(ctx)
}
