package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func ExampleClient_Templates() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	template(ctx, c, "golden")
	for t, err := range c.Templates(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(t.Name, t.MemoryBytes/hypervisor.MiB)
	}
	// Output: golden 1024
}

func ExampleClient_FindTemplate() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	template(ctx, c, "golden")
	tpl, err := c.FindTemplate(ctx, "golden")
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.FindVM(ctx, "golden") // templates are no machines
	fmt.Println(tpl.ID() != "", errors.Is(err, hypervisor.ErrNotFound))
	// Output: true true
}

// A handle for an ID that was stored. It asks nobody.
func ExampleClient_Template() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	stored := string(template(ctx, c, "golden").ID())
	info, err := c.Template(hypervisor.TemplateID(stored)).Info(ctx)
	fmt.Println(info.Name, err)
	// Output: golden <nil>
}

func ExampleTemplate_Info() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	info, err := template(ctx, c, "golden").Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, info.CPUs, len(info.Disks))
	// Output: golden 1 1
}

func ExampleTemplate_Deploy() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	tpl := template(ctx, c, "golden")
	for i := range 3 {
		name := fmt.Sprintf("web-%02d", i+1)
		vm, err := tpl.Deploy(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, Start: true, Token: "order-17/" + name}).Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		show(ctx, vm)
	}
	// Output:
	// web-01 running
	// web-02 running
	// web-03 running
}

func ExampleTemplate_MarkVM() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	tpl := template(ctx, c, "golden")
	clone, err := tpl.Deploy(ctx, "web-01", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, err = tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
	fmt.Println("needed by a clone:", errors.Is(err, hypervisor.ErrBusy))
	if _, err := clone.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	vm, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output:
	// needed by a clone: true
	// golden off
}

func ExampleTemplate_SetLabels() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	tpl := template(ctx, c, "golden")
	if err := tpl.SetLabels(ctx, map[string]string{"release": "2026-11"}); err != nil {
		log.Fatal(err)
	}
	info, err := tpl.Info(ctx)
	fmt.Println(info.Labels["release"], err)
	// Output: 2026-11 <nil>
}

func ExampleTemplate_Delete() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	tpl := template(ctx, c, "golden")
	if _, err := tpl.Delete(ctx, hypervisor.DeleteDisks).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	_, err := tpl.Delete(ctx, hypervisor.DeleteDisks).Wait(ctx)
	fmt.Println("gone already:", errors.Is(err, hypervisor.ErrNotFound))
	// Output: gone already: true
}

func ExampleClient_Hosts() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(h.Name, h.State, h.MemoryBytes/hypervisor.GiB, "GiB, IOMMU:", h.IOMMU)
	}
	// Output:
	// fakehost1 up 512 GiB, IOMMU: yes
	// fakehost2 up 512 GiB, IOMMU: yes
}

// A handle for an ID that was stored. It asks nobody.
func ExampleClient_Host() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	_, err := c.Host("host-9").Info(ctx)
	fmt.Println(errors.Is(err, hypervisor.ErrNotFound))
	// Output: true
}

func ExampleClient_FindHost() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	h, err := c.FindHost(ctx, "fakehost2")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.ID())
	// Output: host-2
}

func ExampleHost_Info() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	info, err := c.Host("host-1").Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.CPU.Model, info.CPU.Threads, "threads")
	// Output: AMD EPYC 7543 128 threads
}

func ExampleHost_Supports() {
	ctx := context.Background()
	hosts := fake.DefaultHosts(2)
	hosts[1].NoIOMMU = true // switched off in the firmware
	c, err := fake.New(fake.Config{Hosts: hosts}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, id := range []hypervisor.HostID{"host-1", "host-2"} {
		s, err := c.Host(id).Supports(ctx, capability.DevicePCI)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s %q\n", id, s.Level, s.Reason)
	}
	// Output:
	// host-1 yes ""
	// host-2 no "host-iommu-off"
}

// Evacuate reports what it has moved, also when some machines must stay.
func ExampleHost_Evacuate() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for _, name := range []string{"web-01", "web-02", "render-01"} {
		vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: name, MemoryBytes: hypervisor.GiB, Placement: hypervisor.Placement{Host: "host-1"}}).Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if name == "render-01" { // a machine with a GPU can't move
			if _, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}).Wait(ctx); err != nil {
				log.Fatal(err)
			}
		}
		if _, err := vm.Start(ctx).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	r, err := c.Host("host-1").Evacuate(ctx, &hypervisor.EvacuateOptions{Parallel: 4}).Wait(ctx)
	fmt.Println("moved:", len(r.Moved), "failed:", err != nil)
	for _, left := range r.Left {
		fmt.Println("still there:", left.Name)
	}
	// Output:
	// moved: 2 failed: true
	// still there: render-01
}

func ExampleHost_EnterMaintenance() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	h := c.Host("host-1")
	if _, err := h.EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := h.Info(ctx)
	fmt.Println(info.State, err)
	// Output: maintenance <nil>
}

func ExampleHost_ExitMaintenance() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	h := c.Host("host-1")
	if _, err := h.EnterMaintenance(ctx, nil).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := h.ExitMaintenance(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := h.Info(ctx)
	fmt.Println(info.State, err)
	// Output: up <nil>
}

func ExampleClient_HA() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{HA: true}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for h, err := range c.HA(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(h.Pool, "enabled:", h.Enabled, "default:", h.DefaultPriority)
	}
	// Output: pool-1 enabled: true default: medium
}

func ExampleClient_Devices() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for d, err := range c.Devices(ctx, &hypervisor.DeviceFilter{Host: "host-1", Class: hypervisor.ClassDisplay}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s, assignable: %v %q\n", d.Address, d.ProductName, d.Assignable, d.Reason)
	}
	// Output:
	// 0000:05:00.0 GM204GL [Tesla M60], assignable: true ""
	// 0000:06:00.0 GM204GL [Tesla M60], assignable: true ""
	// 0000:81:00.0 GH100 [H100 SXM5 80GB], assignable: true ""
	// 0000:02:00.0 ASPEED Graphics Family, assignable: false "host-uses-device"
}

func ExampleClient_PrepareDevice() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	cards, err := hypervisor.Collect(c.Devices(ctx, &hypervisor.DeviceFilter{Host: "host-1", Vendor: "8086", Product: "1572"}))
	if err != nil {
		log.Fatal(err)
	}
	functions := 8
	if _, err := c.PrepareDevice(ctx, cards[0].ID, hypervisor.DevicePreparation{VFs: &functions}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	all, err := hypervisor.Collect(c.Devices(ctx, &hypervisor.DeviceFilter{Host: "host-1", Kind: hypervisor.DeviceKindVF}))
	fmt.Println(len(all), "virtual functions", err)
	// Output: 8 virtual functions <nil>
}

func ExampleClient_Datastores() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for d, err := range c.Datastores(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.ID, d.Type, "shared:", d.Shared)
	}
	// Output:
	// ds-shared nfs shared: true
	// ds-host-1 dir shared: false
	// ds-host-2 dir shared: false
	// ds-archive nfs shared: true
}

func ExampleClient_Volumes() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	if _, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "data", Datastore: "ds-archive", SizeBytes: hypervisor.GiB}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	for v, err := range c.Volumes(ctx, "ds-archive") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(v.Name, v.SizeBytes/hypervisor.MiB)
	}
	// Output: data 1024
}

// An image is copied, and the copy is a machine's disk.
func ExampleClient_CreateVolume() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	blank, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "data", Datastore: "ds-shared", SizeBytes: hypervisor.GiB}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	copied, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "data-copy", Datastore: "ds-shared", From: blank}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	disk, err := machine(ctx, c, "db-01").AttachDisk(ctx, hypervisor.DiskSpec{Volume: copied}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(disk.Volume == copied)
	// Output: true
}

func ExampleClient_DeleteVolume() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.DeleteVolume(ctx, info.Disks[0].Volume).Wait(ctx)
	fmt.Println("in use:", errors.Is(err, hypervisor.ErrBusy))
	if _, err := vm.Delete(ctx, hypervisor.KeepDisks, nil).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = c.DeleteVolume(ctx, info.Disks[0].Volume).Wait(ctx)
	fmt.Println("removed:", err == nil)
	// Output:
	// in use: true
	// removed: true
}

func ExampleClient_Networks() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for n, err := range c.Networks(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n.ID, n.Name, n.VLAN)
	}
	// Output:
	// net-1 default 0
	// net-2 storage 20
}

// A plan changes nothing. Each move in it can be made with VM.Migrate.
func ExampleClient_PlanBalance() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	for _, name := range []string{"web-01", "web-02"} {
		s := hypervisor.VMSpec{Name: name, MemoryBytes: 128 * hypervisor.GiB, Start: true, Placement: hypervisor.Placement{Host: "host-1"}}
		if _, err := c.CreateVM(ctx, s).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	plan, err := c.PlanBalance(ctx, &hypervisor.BalanceOptions{Spread: 0.2})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range plan {
		fmt.Println(m.From, "to", m.To)
		if _, err := c.VM(m.VM).Migrate(ctx, hypervisor.MigrateOptions{Host: m.To}).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output: host-1 to host-2
}

// A watch that begins with an old token reports what happened meanwhile.
func ExampleClient_Watch() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	made := make(chan string, 1)
	go func() {
		for e, err := range c.Watch(ctx, "") {
			if err != nil {
				log.Fatal(err)
			}
			if e.Type == hypervisor.EventVMCreated {
				made <- e.Token // worth storing: the watch resumes after it
				return
			}
		}
	}()
	var token string
	for i := 0; token == ""; i++ { // events before the watch began are not reported
		machine(ctx, c, fmt.Sprintf("first-%d", i))
		select {
		case token = <-made:
		case <-time.After(time.Millisecond):
		}
	}
	vm := started(ctx, c, "web-01")
	for e, err := range c.Watch(ctx, token) {
		if err != nil {
			log.Fatal(err)
		}
		if e.Type == hypervisor.EventResync { // events were lost: list again
			continue
		}
		if e.Type == hypervisor.EventVMState && e.Object.ID == string(vm.ID()) {
			fmt.Println(e.State)
			break
		}
	}
	// Output: running
}
