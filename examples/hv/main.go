// Command hv offers everything that package hypervisor can do, in a shell:
//
//	hv -c kvm:///system vms
//	hv -c vsphere://administrator@vcenter/ snapshot create web-01 before --memory
//	hv -c xapi://root@pool migrate web-01 --host xcp-2
//
// The password is in the environment variable ANYVISOR_PASSWORD. Machines,
// templates, hosts, snapshots, datastores, networks and disk images are given by
// name or as id:ID. Instead of a URL, -c takes the name of a connection in the
// configuration file; see config.
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
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"go.yaml.in/yaml/v3"

	_ "github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
	_ "github.com/anyvisor/anyvisor/kvm"
	_ "github.com/anyvisor/anyvisor/vsphere"
	_ "github.com/anyvisor/anyvisor/xen"
)

// globals are the flags of every command.
type globals struct {
	Connect string           `short:"c" env:"HV_URL" help:"URL of the hypervisor, or name of a connection (${env}; by default the current connection, or else the fake)."`
	Config  string           `env:"HV_CONFIG" type:"path" help:"File with the connections (${env}; by default hv/config.yaml in the user's folder for configurations)."`
	Output  string           `short:"o" enum:"table,json,yaml" default:"table" help:"How to print: table, json or yaml."`
	DryRun  bool             `help:"Say what a command would do and check what can be checked, and change nothing."`
	Debug   bool             `help:"Log every operation."`
	Grace   time.Duration    `default:"1m" help:"How long to wait for the true outcome after an interrupt."`
	Version kong.VersionFlag `help:"Print hv's version."`
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
	Volume      volumeCmd      `cmd:"" help:"Disk images apart from machines, and what depends on what."`
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
	Tour        tourCmd        `cmd:"" help:"Try everything with machines of its own, and remove them."`

	Connections connectionsCmd `cmd:"" help:"List the connections of the configuration file."`
	Completion  completionCmd  `cmd:"" help:"Print the line that makes a shell complete hv's command lines."`
}

// app is the environment that commands run in.
type app struct {
	globals
	config config
	ctx    context.Context
	c      *hypervisor.Client
	out    io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var line cli
	p := parser(&line)
	kongcompletion.Register(p)
	k, err := p.Parse(args)
	if err == nil {
		err = run(ctx, k, line.globals, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hv:", err)
		var parse *kong.ParseError
		if errors.As(err, &parse) {
			fmt.Fprintln(os.Stderr, "hv: see hv --help")
		}
	}
	os.Exit(exitCode(err))
}

func parser(line *cli) *kong.Kong {
	return kong.Must(line, kong.Name("hv"), kong.Vars{"version": version()},
		kong.Description("Runs virtual machines on every hypervisor that has a driver: "+strings.Join(hypervisor.Schemes(), ", ")+".\n\n"+exitHelp))
}

// version is that of the module, as go install records it.
func version() string {
	if i, ok := debug.ReadBuildInfo(); ok {
		return i.Main.Version
	}
	return "unknown"
}

func run(ctx context.Context, k *kong.Context, g globals, out io.Writer) (err error) {
	a := &app{globals: g, ctx: ctx, out: out}
	if a.config, err = readConfig(g.Config); err != nil {
		return err
	}
	if strings.HasPrefix(k.Command(), "connections") || strings.HasPrefix(k.Command(), "completion") { // they need no hypervisor
		return k.Run(a)
	}
	o := &hypervisor.Options{}
	if g.Debug {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var at string
	if at, o.Credentials, err = a.config.target(g.Connect); err != nil {
		return err
	}
	if a.c, err = hypervisor.Open(ctx, at, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.c.Close()) }()
	return k.Run(a)
}

// done shows progress and waits for the true outcome.
func done[T any](a *app, t *hypervisor.Task[T]) (T, error) {
	p := progress{w: os.Stderr, terminal: isTerminal(os.Stderr)}
	for s, err := range t.Progress(a.ctx) {
		if err != nil || s.Done {
			break
		}
		if a.Output == "table" {
			p.show(s, time.Now())
		}
	}
	p.end()
	r, err := t.Run(a.ctx, a.Grace)
	for _, n := range t.Notes() {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	return r, err
}

// only is like done, for tasks whose result is not printed.
func only[T any](a *app, t *hypervisor.Task[T]) error {
	_, err := done(a, t)
	return err
}

// print writes rows as a table, or values as JSON or YAML with the same names.
func (a *app) print(values any, header string, rows [][]any) error {
	if a.Output != "table" {
		return a.document(values)
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

// document writes values as JSON or YAML; a table has no form for one value, so
// that it is JSON too.
func (a *app) document(values any) error {
	b, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		return err
	}
	if a.Output == "yaml" {
		var tree yaml.Node // keeps the order of JSON, which is YAML too
		if err := yaml.Unmarshal(b, &tree); err != nil {
			return err
		}
		block(&tree)
		if b, err = yaml.Marshal(&tree); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(a.out, strings.TrimRight(string(b), "\n"))
	return err
}

// block gives a tree YAML's own style instead of JSON's.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n/hypervisor.MiB) }
