package vsphere

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestEscape(t *testing.T) {
	for plain, sent := range map[string]string{
		"web-01": "web-01", "a/b": "a/b", "50%": "50%", "100%25": "100%2525", "a%2fb": "a%252fb", "%": "%", "%2": "%2", "ünï%5C": "ünï%255C",
	} {
		if got := escape(plain); got != sent {
			t.Errorf("escape(%q) = %q, want %q", plain, got, sent)
		}
	}
	for stored, plain := range map[string]string{"a%2fb": "a/b", "a%5cb": `a\b`, "50%25": "50%", "100%2525": "100%25", "a%252fb": "a%2fb", "%00": "%00", "%2Fx": "/x"} {
		if got := unescape(stored); got != plain {
			t.Errorf("unescape(%q) = %q, want %q", stored, got, plain)
		}
	}
}

func TestVolumeID(t *testing.T) {
	store := ref{Type: "Datastore", Value: "datastore-12"}
	id := volumeID(store, "[LocalDS 0] web/web.vmdk")
	if id != "datastore-12/web/web.vmdk" {
		t.Errorf("the volume's ID is %q", id)
	}
	if s, p, ok := splitVolume(id); !ok || s != store || p != "web/web.vmdk" {
		t.Errorf("split: %v %q %v", s, p, ok)
	}
	for _, bad := range []hypervisor.VolumeID{"", "x", "/x.vmdk", "x/", "x/.", "s/../x.vmdk", "s/a/../x.vmdk", "s/./x.vmdk", "s//x.vmdk", "s/x.vmdk/", `s/a\x.vmdk`, "s/x.vmdk ", "s/x.vmdk.",
		"s/x.vmdk::$DATA", "s/x\u202e.vmdk", "s/x\x00.vmdk", "s/x\u2028.vmdk", "s/x\xff.vmdk", "s\n/x.vmdk", "s/web/web.vmx", "s/web/web.nvram", "s/web/web-flat.vmdk", "s/web/vmware.log", "s/web"} {
		if _, _, ok := splitVolume(bad); ok {
			t.Errorf("%q is taken for a volume", bad)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	for want, faults := range map[hypervisor.Kind][]types.BaseMethodFault{
		hypervisor.ErrNotFound:        {&types.ManagedObjectNotFound{}, &types.NotFound{}, &types.FileNotFound{}},
		hypervisor.ErrExists:          {&types.DuplicateName{}, &types.AlreadyExists{}, &types.FileAlreadyExists{}},
		hypervisor.ErrUnauthenticated: {&types.NotAuthenticated{}, &types.InvalidLogin{}},
		hypervisor.ErrPermission:      {&types.NoPermission{}},
		hypervisor.ErrLicense:         {&types.RestrictedVersion{}, &types.NotEnoughLicenses{}},
		hypervisor.ErrBusy:            {&types.TaskInProgress{}, &types.ResourceInUse{}, &types.FileLocked{}, &types.ConcurrentAccess{}},
		hypervisor.ErrCanceled:        {&types.RequestCanceled{}},
		hypervisor.ErrExhausted:       {&types.InsufficientMemoryResourcesFault{}, &types.NoDiskSpace{}, &types.NotEnoughLogicalCpus{}, &types.TooManyDevices{}},
		hypervisor.ErrInvalidState:    {&types.InvalidPowerState{}, &types.InvalidState{}},
		hypervisor.ErrIncompatible:    {&types.DeviceNotSupported{}, &types.CannotAccessVmDisk{}, &types.CpuIncompatible{}},
		hypervisor.ErrInvalidArgument: {&types.InvalidArgument{}, &types.InvalidName{}, &types.InvalidDatastorePath{}},
		hypervisor.ErrUnsupported:     {&types.NotSupported{}, &types.MethodNotFound{}, &types.NotImplemented{}, &types.CpuHotPlugNotSupported{}, &types.ToolsUnavailable{}},
		hypervisor.ErrUnavailable:     {&types.HostNotConnected{}, &types.HostCommunication{}},
		hypervisor.ErrUnknown:         {&types.SystemErrorFault{}},
	} {
		for _, f := range faults {
			for _, err := range []error{
				taskFailure(&types.LocalizedMethodFault{Fault: f}), soap.WrapVimFault(f), task.Error{LocalizedMethodFault: &types.LocalizedMethodFault{Fault: f}},
			} {
				if got := kindOf(err); got != want {
					t.Errorf("%T is %s, want %s", f, got, want)
				}
			}
			if text := taskFailure(&types.LocalizedMethodFault{Fault: f}).Error(); text == "" {
				t.Errorf("%T has no text", f)
			}
		}
	}
}

// TestMMIOWindow: the next power of two above the sum (VMware knowledge base
// 2142307 has 2 GPUs of 16 GB as its example, and 64 as the result).
func TestMMIOWindow(t *testing.T) {
	gpu := func(id string, gib int64) hostDevice {
		return hostDevice{DeviceInfo: hypervisor.DeviceInfo{ID: hypervisor.DeviceID(id), Class: hypervisor.ClassDisplay, Vendor: "10de", Product: "1"}, memory: gib * hypervisor.GiB}
	}
	size := func(v hypervisor.VMInfo, pick hostDevice, all ...hostDevice) string {
		o, _ := mmioWindow(all, v, pick, hypervisor.DeviceRequest{ID: pick.ID})
		if len(o) == 0 {
			return ""
		}
		return optionValue(*o[1].(*types.OptionValue))
	}
	a, b := gpu("h/a", 16), gpu("h/b", 16)
	has := hypervisor.VMInfo{Devices: []hypervisor.AttachedDevice{{Device: "h/a"}}}
	for want, got := range map[string]string{
		"32": size(hypervisor.VMInfo{}, a, a, b), "64": size(has, b, a, b), "128": size(hypervisor.VMInfo{}, gpu("h/c", 80)), "": size(hypervisor.VMInfo{}, gpu("h/d", 0)),
	} {
		if got != want {
			t.Errorf("the window is %q GiB, want %q", got, want)
		}
	}
}

func TestCPUIDBit(t *testing.T) {
	const ecx = "1001:0111:1011:1010:0010:0010:0010:1011"
	for bit, want := range map[int]bool{31: true, 30: false, 5: true, 4: false, 2: false, 0: true} {
		if got := cpuidBit(ecx, bit); got != want {
			t.Errorf("bit %d is %v", bit, got)
		}
	}
	if cpuidBit("", 5) {
		t.Error("an empty register has a bit")
	}
}

func TestCustomization(t *testing.T) {
	v := hypervisor.VMInfo{ID: "vm-1", GuestOS: "otherLinux64Guest", NICs: []hypervisor.NICInfo{{ID: "4000"}, {ID: "4001"}}}
	s, notes, err := customization("clone", v, hypervisor.Customization{HostName: "web.example.org", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, Gateway: netip.MustParseAddr("192.0.2.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.2")}})
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "DHCP") {
		t.Errorf("the notes are %q, want one about the second adapter", notes)
	}
	l, ok := s.Identity.(*types.CustomizationLinuxPrep)
	if !ok || l.HostName.(*types.CustomizationFixedName).Name != "web" || l.Domain != "example.org" {
		t.Errorf("the identity is %+v", s.Identity)
	}
	if len(s.NicSettingMap) != 2 {
		t.Fatalf("%d adapters", len(s.NicSettingMap))
	}
	a := s.NicSettingMap[0].Adapter
	if a.Ip.(*types.CustomizationFixedIp).IpAddress != "192.0.2.7" || a.SubnetMask != "255.255.255.0" || len(a.Gateway) != 1 {
		t.Errorf("the first adapter is %+v", a)
	}
	if _, dhcp := s.NicSettingMap[1].Adapter.Ip.(*types.CustomizationDhcpIpGenerator); !dhcp {
		t.Errorf("the second adapter is %+v", s.NicSettingMap[1].Adapter)
	}
	v.GuestOS = "windows2019srv_64Guest"
	if _, _, err = customization("clone", v, hypervisor.Customization{}); kindOf(err) != hypervisor.ErrInvalidArgument || !strings.Contains(err.Error(), "Customize.Windows") {
		t.Errorf("Windows without its part: %v", err)
	}
	w := &hypervisor.WindowsCustomization{TimeZone: 85, Workgroup: "W", Owner: "O"}
	if s, _, err = customization("clone", v, hypervisor.Customization{Windows: w}); err != nil {
		t.Fatal(err)
	}
	p, ok := s.Identity.(*types.CustomizationSysprep)
	if !ok || p.UserData.OrgName != "" || p.UserData.FullName != "O" || p.Identification.JoinWorkgroup != "W" || p.GuiUnattended.TimeZone != 85 {
		t.Errorf("Windows gets %+v", s.Identity)
	}
	if _, _, err = customization("clone", v, hypervisor.Customization{Windows: w, Gateway: netip.MustParseAddr("192.0.2.1")}); kindOf(err) != hypervisor.ErrInvalidArgument {
		t.Errorf("a gateway without an address: %v", err)
	}
	if _, _, err = customization("clone", v, hypervisor.Customization{Windows: w, Addresses: []netip.Prefix{{}, {}, netip.MustParsePrefix("192.0.2.7/24")}}); kindOf(err) != hypervisor.ErrInvalidArgument {
		t.Errorf("three addresses for two adapters: %v", err)
	}
}

// TestEditions: what the licence leaves out is refused with that reason.
func TestEditions(t *testing.T) {
	for edition, has := range map[string][]capability.Name{
		vspheresim.EnterprisePlus: {capability.PlacementNative, capability.DeviceVF, capability.DeviceVGPU, capability.MigrateLiveStorage, capability.MigrateLive},
		vspheresim.Evaluation:     {capability.PlacementNative, capability.DeviceVF, capability.DeviceVGPU, capability.MigrateLiveStorage, capability.MigrateLive},
		vspheresim.Standard:       {capability.MigrateLiveStorage, capability.MigrateLive},
		vspheresim.EssentialsPlus: {capability.MigrateLive},
	} {
		t.Run(edition, func(t *testing.T) {
			cfg := simConfig(vspheresim.VCenter)
			cfg.Edition = edition
			_, c := once(t, cfg)
			want := map[capability.Name]bool{}
			for _, k := range has {
				want[k] = true
			}
			for _, k := range []capability.Name{capability.PlacementNative, capability.DeviceVF, capability.DeviceVGPU, capability.MigrateLiveStorage, capability.MigrateLive} {
				s, err := c.Supports(t.Context(), k, hypervisor.Ref{})
				if err != nil {
					t.Fatal(err)
				}
				if want[k] && s.Level != hypervisor.LevelYes || !want[k] && (s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonEdition) {
					t.Errorf("%s: %+v", k, s)
				}
			}
			if want[capability.DeviceVGPU] {
				return
			}
			vm, err := c.CreateVM(t.Context(), spec("x")).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = vm.AttachDevice(t.Context(), hypervisor.DeviceRequest{Profile: "grid_a100-40c"}).Wait(t.Context())
			if !errors.Is(err, hypervisor.ErrLicense) || !errors.Is(err, hypervisor.ErrUnsupported) {
				t.Errorf("a vGPU without the edition: %v", err)
			}
		})
	}
}

// TestNotes: what is done besides what was asked is said, and a base snapshot
// goes with the last clone that depends on it.
func TestNotes(t *testing.T) {
	_, c := once(t, simConfig(vspheresim.VCenter))
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, spec("notes")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	attach := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"})
	a, err := attach.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(attach.Notes(), "; ")
	if !strings.Contains(notes, "256 MiB of memory are reserved") || !strings.Contains(notes, "use64bitMMIO") || !strings.Contains(notes, "128 GiB") {
		t.Errorf("the notes of a device are %q", notes)
	}
	if _, err := vm.DetachDevice(ctx, a.ID).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var clones []*hypervisor.VM
	for _, name := range []string{"one", "two"} {
		k := vm.Clone(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
		x, err := k.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Join(k.Notes(), "; "); !strings.Contains(n, "base of the linked clone") {
			t.Errorf("the notes of a linked clone are %q", n)
		}
		clones = append(clones, x)
	}
	if l, err := vm.Snapshots(ctx); err != nil || len(l) != 2 {
		t.Fatalf("%d snapshots, %v; want a base for each clone", len(l), err)
	}
	for n, x := range clones {
		snaps, err := vm.Snapshots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = vm.Snapshot(snaps[0].ID).Delete(ctx, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
			t.Errorf("with %d clones the base's deletion: %v, want busy", 2-n, err)
		}
		if _, err := x.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := vm.Snapshots(ctx); err != nil || len(l) != 0 {
		t.Errorf("after the last clone %d snapshots are left, %v: %+v", len(l), err, l)
	}
}
