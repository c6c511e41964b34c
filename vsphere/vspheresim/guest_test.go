package vspheresim_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/vmware/govmomi/guest"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestGuestThatHasNoTools(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	isFault[*types.ToolsUnavailable](w, vm.ShutdownGuest(w.ctx))
	isFault[*types.ToolsUnavailable](w, vm.RebootGuest(w.ctx))
	ops := guest.NewOperationsManager(w.client.Client, vm.Reference())
	auth, err := ops.AuthManager(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	isFault[*types.GuestOperationsUnavailable](w, auth.ValidateCredentials(w.ctx, &types.NamePasswordAuthentication{Username: "root"}))
}

func TestGuestWithTools(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, Tools: true})
	vm := w.vm("DC0_C0_RP0_VM0")
	err := w.sim.SetGuest("DC0_C0_RP0_VM0", vspheresim.Guest{Tools: true, HostName: "web", IP: "192.0.2.7", User: "root", Password: "pw",
		Run: func(path, arguments string) vspheresim.Result {
			return vspheresim.Result{ExitCode: 3, Stdout: path + " ran", Stderr: "warned"}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ip, err := vm.WaitForIP(w.ctx)
	if err != nil || ip != "192.0.2.7" {
		t.Errorf("address %q, %v", ip, err)
	}
	ops := guest.NewOperationsManager(w.client.Client, vm.Reference())
	pm, err := ops.ProcessManager(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	wrong := &types.NamePasswordAuthentication{Username: "root", Password: "no"}
	_, err = pm.ListProcesses(w.ctx, wrong, nil)
	isFault[*types.InvalidGuestLogin](w, err)
	auth := &types.NamePasswordAuthentication{Username: "root", Password: "pw"}
	pid, err := pm.StartProgram(w.ctx, auth, &types.GuestProgramSpec{ProgramPath: "/bin/uptime", Arguments: "-p >/tmp/out 2>/tmp/err"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := pm.ListProcesses(w.ctx, auth, []int64{pid})
	if err != nil || len(list) != 1 || list[0].ExitCode != 3 || list[0].EndTime == nil {
		t.Fatalf("processes %+v, %v", list, err)
	}
	fm, err := ops.FileManager(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	info, err := fm.InitiateFileTransferFromGuest(w.ctx, auth, "/tmp/out")
	if err != nil {
		t.Fatal(err)
	}
	u, err := fm.TransferURL(w.ctx, info.Url)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out bytes.Buffer
	_, _ = io.Copy(&out, res.Body)
	if out.String() != "/bin/uptime ran" {
		t.Errorf("output %q", out.String())
	}
	http.DefaultClient.CloseIdleConnections()

	if err := vm.ShutdownGuest(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitForPowerState(w.ctx, types.VirtualMachinePowerStatePoweredOff); err != nil {
		t.Error(err)
	}
	if p := w.props(vm); p.Guest.ToolsRunningStatus != "guestToolsNotRunning" || p.Guest.IpAddress != "" {
		t.Errorf("guest of a machine that is off: %+v", p.Guest)
	}
}

func TestDeafGuest(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	if err := w.sim.SetGuest("DC0_C0_RP0_VM0", vspheresim.Guest{Tools: true, Deaf: true}); err != nil {
		t.Fatal(err)
	}
	vm := w.vm("DC0_C0_RP0_VM0")
	if err := vm.ShutdownGuest(w.ctx); err != nil {
		t.Fatal(err)
	}
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Error("the guest listened")
	}
	if _, err := methods.TerminateVM(w.ctx, w.client, &types.TerminateVM{This: vm.Reference()}); err != nil {
		t.Fatal(err)
	}
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		t.Error("the machine still runs")
	}
	_, err := methods.AcquireTicket(w.ctx, w.client, &types.AcquireTicket{This: vm.Reference(), TicketType: "webmks"})
	isFault[*types.InvalidPowerState](w, err)
	w.done(vm.PowerOn(w.ctx))
	ticket, err := vm.AcquireTicket(w.ctx, "webmks")
	if err != nil || !strings.HasPrefix(ticket.Url, "wss://") {
		t.Errorf("ticket %+v, %v", ticket, err)
	}
}

func TestCustomizationWithClone(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, Tools: true})
	vm := w.vm("DC0_C0_RP0_VM0")
	spec := types.CustomizationSpec{
		Identity: &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "made"}, Domain: "example"},
	}
	task, err := vm.Clone(w.ctx, w.vmFolder(), "made", types.VirtualMachineCloneSpec{Customization: &spec})
	refused[*types.NicSettingMismatch](w, task, err)
	spec.NicSettingMap = []types.CustomizationAdapterMapping{{Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationFixedIp{IpAddress: "198.51.100.9"}}}}
	w.done(vm.Clone(w.ctx, w.vmFolder(), "made", types.VirtualMachineCloneSpec{Customization: &spec, PowerOn: true}))
	p := w.props(w.vm("made"))
	if p.Guest.HostName != "made" || p.Guest.IpAddress != "198.51.100.9" {
		t.Errorf("guest %q %q", p.Guest.HostName, p.Guest.IpAddress)
	}
}

func TestLabelsAndNames(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 2})
	vm := w.vm("DC0_C0_RP0_VM0")
	fields, err := object.GetCustomFieldsManager(w.client.Client)
	if err != nil {
		t.Fatal(err)
	}
	def, err := fields.Add(w.ctx, "owner", "VirtualMachine", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Someone who watches the machine hears of the label.
	pc := property.DefaultCollector(w.client.Client)
	heard := make(chan error, 1)
	go func() {
		heard <- property.Wait(w.ctx, pc, vm.Reference(), []string{"customValue"}, func(list []types.PropertyChange) bool {
			for _, c := range list {
				if v, ok := c.Val.(types.ArrayOfCustomFieldValue); ok && len(v.CustomFieldValue) == 1 {
					return true
				}
			}
			return false
		})
	}()
	if err := fields.Set(w.ctx, vm.Reference(), def.Key, "team-a"); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Error(err)
	}
	host := w.host("DC0_C0_H0")
	isFault[*types.InvalidArgument](w, fields.Set(w.ctx, host.Reference(), def.Key, "x"))

	task, err := vm.Rename(w.ctx, "DC0_C0_RP0_VM1")
	refused[*types.DuplicateName](w, task, err)
	w.done(vm.Rename(w.ctx, "a/b 100%"))
	if p := w.props(vm); p.Name != "a%2fb 100%25" || p.Config.Name != p.Name {
		t.Errorf("name %q", p.Name)
	}
}
