// Command hv does everything that package hypervisor can, from a shell:
//
//	hv -c kvm:///system vms
//	hv -c vsphere://administrator@vcenter/ snapshot create web-01 before --memory
//	hv -c xapi://root@pool migrate web-01 --host xcp-2
//
// Machines, templates, hosts and snapshots are given by name or as id:ID.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	_ "github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
	_ "github.com/anyvisor/anyvisor/kvm"
	_ "github.com/anyvisor/anyvisor/vsphere"
	_ "github.com/anyvisor/anyvisor/xen"
)

// globals are the flags of every command.
type globals struct {
	URL      string        `short:"c" env:"HV_URL" default:"fake://" help:"Where the hypervisor is (${env})."`
	User     string        `env:"HV_USER" help:"User name, in place of the URL's."`
	Password string        `env:"HV_PASSWORD" help:"Password, better from the environment."`
	JSON     bool          `help:"Print JSON."`
	Debug    bool          `help:"Log every operation."`
	Grace    time.Duration `default:"1m" help:"How long to wait for the true outcome after an interrupt."`
}

type cli struct {
	globals
	Caps        capsCmd        `cmd:"" help:"What the hypervisor can do, and why not."`
	Hosts       hostsCmd       `cmd:"" help:"List hosts."`
	VMs         vmsCmd         `cmd:"" name:"vms" help:"List machines."`
	Templates   templatesCmd   `cmd:"" help:"List templates."`
	Stores      storesCmd      `cmd:"" help:"List datastores."`
	Networks    networksCmd    `cmd:"" help:"List networks."`
	Devices     devicesCmd     `cmd:"" help:"List host devices."`
	Watch       watchCmd       `cmd:"" help:"Print events until interrupted."`
	Info        infoCmd        `cmd:"" help:"Show a machine."`
	Create      createCmd      `cmd:"" help:"Make a machine."`
	Delete      deleteCmd      `cmd:"" help:"Remove a machine."`
	Power       powerCmd       `cmd:"" help:"Start, stop and so on."`
	Set         setCmd         `cmd:"" help:"Change CPUs, memory, name or labels."`
	Disk        diskCmd        `cmd:"" help:"Disks of a machine."`
	NIC         nicCmd         `cmd:"" name:"nic" help:"Network adapters of a machine."`
	Volume      volumeCmd      `cmd:"" help:"Disk images apart from machines, and what stands on what."`
	Snapshot    snapshotCmd    `cmd:"" help:"Snapshots of a machine."`
	Clone       cloneCmd       `cmd:"" help:"Copy a machine or deploy a template."`
	Template    templateCmd    `cmd:"" help:"Turn a machine into a template, or back."`
	Migrate     migrateCmd     `cmd:"" help:"Move a machine."`
	Evacuate    evacuateCmd    `cmd:"" help:"Move every running machine off a host."`
	Maintenance maintenanceCmd `cmd:"" help:"Keep machines away from a host, or take it back into use."`
	Place       placeCmd       `cmd:"" help:"Which host would take a machine."`
	Balance     balanceCmd     `cmd:"" help:"Plan moves that even out the hosts' load."`
	HA          haCmd          `cmd:"" name:"ha" help:"Restart after a host's failure: clusters, or a machine's priority."`
	Replication replicationCmd `cmd:"" help:"State of a machine's replication."`
	Prepare     prepareCmd     `cmd:"" help:"Make a host device assignable, or its SR-IOV functions."`
	Device      deviceCmd      `cmd:"" help:"Give a host device to a machine, or take it back."`
	Guest       guestCmd       `cmd:"" help:"Ask the guest."`
	Task        taskCmd        `cmd:"" help:"Watch or cancel work started earlier."`
}

// app is what commands run with.
type app struct {
	globals
	ctx context.Context
	c   *hypervisor.Client
	out io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var args cli
	k := kong.Parse(&args, kong.Name("hv"), kong.UsageOnError(),
		kong.Description("Runs virtual machines on every hypervisor that has a driver: "+strings.Join(hypervisor.Schemes(), ", ")+"."))
	k.FatalIfErrorf(run(ctx, k, args.globals, os.Stdout))
}

func run(ctx context.Context, k *kong.Context, g globals, out io.Writer) (err error) {
	o := &hypervisor.Options{}
	if g.User != "" || g.Password != "" {
		o.Credentials = &hypervisor.Credentials{Username: g.User, Password: g.Password}
	}
	if g.Debug {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c, err := hypervisor.Open(ctx, g.URL, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return k.Run(&app{globals: g, ctx: ctx, c: c, out: out})
}

// vm finds a machine by name or id:ID.
func (a *app) vm(name string) (*hypervisor.VM, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		return a.c.VM(hypervisor.VMID(id)), nil
	}
	return a.c.FindVM(a.ctx, name)
}

func (a *app) template(name string) (*hypervisor.Template, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		return a.c.Template(hypervisor.TemplateID(id)), nil
	}
	return a.c.FindTemplate(a.ctx, name)
}

func (a *app) host(name string) (hypervisor.HostID, error) {
	if name == "" {
		return "", nil
	}
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		return hypervisor.HostID(id), nil
	}
	h, err := a.c.FindHost(a.ctx, name)
	if err != nil {
		return "", err
	}
	return h.ID(), nil
}

// snapshot finds a snapshot of a machine by name or id:ID.
func (a *app) snapshot(vm *hypervisor.VM, name string) (*hypervisor.Snapshot, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		return vm.Snapshot(hypervisor.SnapshotID(id)), nil
	}
	return vm.FindSnapshot(a.ctx, name)
}

// done shows progress and waits for the true outcome.
func done[T any](a *app, t *hypervisor.Task[T]) (T, error) {
	for p, err := range t.Progress(a.ctx) {
		if err != nil || p.Done {
			break
		}
		if p.Fraction >= 0 && !a.JSON {
			fmt.Fprintf(os.Stderr, "%3.0f%% %s\n", 100*p.Fraction, p.Phase)
		}
	}
	r, err := t.Run(a.ctx, a.Grace)
	for _, n := range t.Notes() {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	return r, err
}

// only is done for tasks whose result is not printed.
func only[T any](a *app, t *hypervisor.Task[T]) error {
	_, err := done(a, t)
	return err
}

// print writes rows as a table, or values as JSON.
func (a *app) print(values any, header string, rows [][]any) error {
	if a.JSON {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(values)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	for _, r := range rows {
		for i, v := range r {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, v)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n/hypervisor.MiB) }
