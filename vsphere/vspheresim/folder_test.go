package vspheresim_test

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestStaysInItsFolder: no path of a request reaches a file of this machine.
func TestStaysInItsFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w := start(t, vspheresim.Config{VMs: 1})
	outside := filepath.Join(os.Getenv("TMPDIR"), "outside")
	canary := filepath.Join(outside, "canary.vmdk")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(canary, []byte("a developer's"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.client
	sc := c.ServiceContent
	vm := w.vm("DC0_C0_RP0_VM0").Reference()
	any := func(kind string) types.ManagedObjectReference { return w.sim.Registry().All(kind)[0].Reference() }
	dc := any("Datacenter")
	var host mo.HostSystem
	w.read(any("HostSystem"), &host, "configManager")
	dss := *host.ConfigManager.DatastoreSystem
	in, err := w.finder.DefaultDatacenter(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := in.Folders(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	folder, pool := folders.VmFolder.Reference(), any("ResourcePool")
	for _, p := range []string{
		"[LocalDS_0] ../../outside/canary.vmdk", "[LocalDS_0] x/../../../outside/canary.vmdk", "[LocalDS_0] " + canary, "[LocalDS_0]../../outside/canary.vmdk",
		`[LocalDS_0] ..\..\outside\canary.vmdk`, "[LocalDS_0] %2e%2e/%2e%2e/outside/canary.vmdk", "[] " + canary,
	} {
		for name, call := range map[string]func() error{
			"delete file": func() error {
				_, err := methods.DeleteDatastoreFile_Task(w.ctx, c, &types.DeleteDatastoreFile_Task{This: *sc.FileManager, Name: p, Datacenter: &dc})
				return err
			},
			"move file": func() error {
				_, err := methods.MoveDatastoreFile_Task(w.ctx, c, &types.MoveDatastoreFile_Task{This: *sc.FileManager, SourceName: p, SourceDatacenter: &dc, DestinationName: "[LocalDS_0] here"})
				return err
			},
			"copy file there": func() error {
				_, err := methods.CopyDatastoreFile_Task(w.ctx, c, &types.CopyDatastoreFile_Task{This: *sc.FileManager, SourceName: "[LocalDS_0] DC0_C0_RP0_VM0/DC0_C0_RP0_VM0.vmx",
					SourceDatacenter: &dc, DestinationName: p, Force: types.NewBool(true)})
				return err
			},
			"make directory": func() error {
				_, err := methods.MakeDirectory(w.ctx, c, &types.MakeDirectory{This: *sc.FileManager, Name: p + "x", Datacenter: &dc})
				return err
			},
			"delete disk": func() error {
				_, err := methods.DeleteVirtualDisk_Task(w.ctx, c, &types.DeleteVirtualDisk_Task{This: *sc.VirtualDiskManager, Name: p, Datacenter: &dc})
				return err
			},
			"create disk": func() error {
				_, err := methods.CreateVirtualDisk_Task(w.ctx, c, &types.CreateVirtualDisk_Task{This: *sc.VirtualDiskManager, Name: p + "x.vmdk", Datacenter: &dc,
					Spec: &types.FileBackedVirtualDiskSpec{CapacityKb: 1024}})
				return err
			},
			"machine": func() error {
				_, err := methods.CreateVM_Task(w.ctx, c, &types.CreateVM_Task{This: folder, Pool: pool, Config: types.VirtualMachineConfigSpec{Name: "x", GuestId: "otherGuest64",
					Files: &types.VirtualMachineFileInfo{VmPathName: p}}})
				return err
			},
			"attach": func() error {
				_, err := methods.ReconfigVM_Task(w.ctx, c, &types.ReconfigVM_Task{This: vm, Spec: types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
					&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
						Backing: &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: p}}}}}}}})
				return err
			},
			"register": func() error {
				_, err := methods.RegisterVM_Task(w.ctx, c, &types.RegisterVM_Task{This: folder, Path: p, Pool: &pool})
				return err
			},
		} {
			err := call()
			if !soap.IsSoapFault(err) {
				t.Errorf("%s with %s: %v", name, p, err)
			} else if _, ok := soap.ToSoapFault(err).VimFault().(types.InvalidDatastorePath); !ok {
				t.Errorf("%s with %s: %#v", name, p, soap.ToSoapFault(err).VimFault())
			}
		}
	}
	for _, name := range []string{"../../outside/machine", "..", "a/../../../outside/machine"} {
		_, err := methods.CreateVM_Task(w.ctx, c, &types.CreateVM_Task{This: folder, Pool: pool, Config: types.VirtualMachineConfigSpec{Name: name, GuestId: "otherGuest64",
			Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"}}})
		if !soap.IsSoapFault(err) {
			t.Errorf("a machine named %s: %v", name, err)
		}
	}
	if _, err := methods.CreateLocalDatastore(w.ctx, c, &types.CreateLocalDatastore{This: dss, Name: "mine", Path: outside}); !soap.IsSoapFault(err) {
		t.Errorf("a datastore in any folder: %v", err)
	}
	if _, err := methods.UpdateOptions(w.ctx, c, &types.UpdateOptions{This: *sc.Setting, ChangedValue: []types.BaseOptionValue{&types.OptionValue{Key: "vcsim.home", Value: outside}}}); !soap.IsSoapFault(err) {
		t.Errorf("another folder: %v", err)
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "a developer's" {
		t.Errorf("the canary: %q, %v", b, err)
	}
	if l, _ := os.ReadDir(outside); len(l) != 1 {
		t.Errorf("files outside: %v", l)
	}
}

// TestFolderNeedsLogin: files are given and taken with a login alone.
func TestFolderNeedsLogin(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	u := w.sim.URL()
	at := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/folder/x.txt", RawQuery: "dcPath=DC0&dsName=LocalDS_0"}
	try := func(method string, login *url.Userinfo, cookies []*http.Cookie) int {
		rq, err := http.NewRequest(method, at.String(), strings.NewReader("text"))
		if err != nil {
			t.Fatal(err)
		}
		if login != nil {
			p, _ := login.Password()
			rq.SetBasicAuth(login.Username(), p)
		}
		for _, c := range cookies {
			rq.AddCookie(c)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		rs, err := tr.RoundTrip(rq)
		if err != nil {
			t.Fatal(err)
		}
		rs.Body.Close()
		return rs.StatusCode
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodGet, http.MethodDelete} {
		for name, n := range map[string]int{"nobody": try(method, nil, nil), "a stranger": try(method, url.UserPassword("user", "wrong"), nil),
			"an old session": try(method, nil, []*http.Cookie{{Name: soap.SessionCookieName, Value: "52a3"}})} {
			if n != http.StatusUnauthorized {
				t.Errorf("%s by %s: %d", method, name, n)
			}
		}
	}
	if n := try(http.MethodPut, u.User, nil); n != http.StatusOK {
		t.Errorf("with user and password: %d", n)
	}
	if n := try(http.MethodGet, nil, w.client.Jar.Cookies(u)); n != http.StatusOK {
		t.Errorf("with a session: %d", n)
	}
}

// TestSweep: what a process leaves that ends badly, the next one removes.
func TestSweep(t *testing.T) {
	switch os.Getenv("VSPHERESIM_DIES") {
	case "building":
		stores := func() int {
			l, _ := filepath.Glob(filepath.Join(os.TempDir(), "govcsim-*", "*LocalDS*"))
			return len(l)
		}
		before := stores()
		go func() { _, _ = vspheresim.Start(vspheresim.Config{Datacenters: 4, Datastores: 9}) }()
		for stores() == before {
			runtime.Gosched()
		}
		os.Exit(0)
	case "started":
		if _, err := vspheresim.Start(vspheresim.Config{TLS: true}); err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	w := start(t, vspheresim.Config{TLS: true})
	for _, when := range []string{"building", "started"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSweep$")
		cmd.Env = append(os.Environ(), "VSPHERESIM_DIES="+when)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	left := func() int {
		l, _ := os.ReadDir(dir)
		return len(l)
	}
	if n := left(); n != 2 {
		t.Fatalf("%d entries, want the folder of this process and of the dead one", n)
	}
	for name, age := range map[string]time.Duration{"govcsim-old": time.Hour, "govcsim-new": 0, "govcsim-full/of": time.Hour} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(name, "/")
		then := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, top), then, then); err != nil {
			t.Fatal(err)
		}
	}
	other, err := vspheresim.Start(vspheresim.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"govcsim-old": false, "govcsim-new": true, "govcsim-full": true} {
		if err := os.RemoveAll(filepath.Join(dir, name+"/of")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s: %v, want that it stays: %t", name, err, stays)
		}
	}
	if _, err := other.CertificateFile(); err != nil {
		t.Error(err)
	}
	if n := left(); n != 2 {
		t.Errorf("%d entries, want the folders of two simulators that run", n)
	}
	other.Close()
	if _, err := w.sim.CertificateFile(); err != nil || left() != 1 {
		t.Errorf("%v, %d entries", err, left())
	}
}
