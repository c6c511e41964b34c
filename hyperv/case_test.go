package hyperv

import (
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestOneIDInAnyCase: WMI writes the path of an image in lower case on some
// hosts and as it is stored on others. Its ID is the same everywhere.
func TestOneIDInAnyCase(t *testing.T) {
	for _, stored := range []bool{false, true} {
		s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{StoredCase: stored}}})
		ctx, c := t.Context(), openSite(t, s)
		made, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "Data-Disk", Datastore: hypervisor.DatastoreID(s.config.Hosts[0] + "|C:"), SizeBytes: hypervisor.GiB}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		vm := create(t, c, small("Web"))
		if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Volume: hypervisor.VolumeID(strings.Replace(string(made), "data-disk", "DATA-disk", 1))}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		i, err := vm.Info(ctx)
		if err != nil || len(i.Disks) != 2 {
			t.Fatalf("%+v, %v", i.Disks, err)
		}
		vols, err := hypervisor.Collect(c.Volumes(ctx, ""))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range i.Disks {
			if !slices.ContainsFunc(vols, func(v hypervisor.VolumeInfo) bool { return v.ID == d.Volume && v.Datastore == d.Datastore }) {
				t.Errorf("stored case %v: the disk's volume %s is not among %+v", stored, d.Volume, vols)
			}
		}
		if i.Disks[1].Volume != made && i.Disks[0].Volume != made {
			t.Errorf("stored case %v: made as %s, attached as %+v", stored, made, i.Disks)
		}
	}
}

// TestClusterTellsItsRoot: the folder of the shared volumes is the cluster's
// setting, and a folder of that name outside a cluster is a host's own.
func TestClusterTellsItsRoot(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2), Cluster: &hvsim.ClusterConfig{Root: `D:\Shared`, Volumes: []string{"Volume1"}}})
	ctx, c := t.Context(), openSite(t, s)
	spec := small("clustered")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: `D:\Shared\Volume1`}
	i, err := create(t, c, spec).Info(ctx)
	if err != nil || i.Disks[0].Datastore != `d:\shared\volume1` || !strings.HasPrefix(string(i.Disks[0].Volume), `d:\shared\volume1\`) {
		t.Errorf("%+v, %v", i.Disks, err)
	}
	all, err := hypervisor.Collect(c.Datastores(ctx))
	if err != nil || !slices.ContainsFunc(all, func(d hypervisor.DatastoreInfo) bool {
		return d.ID == `d:\shared\volume1` && d.Shared && len(d.Hosts) == 2
	}) {
		t.Errorf("%+v, %v", all, err)
	}

	alone := startSite(t, hvsim.Config{})
	c = openSite(t, alone)
	spec = small("alone")
	spec.Placement.Datastore = sharedStore
	if _, err := c.CreateVM(ctx, spec).Wait(ctx); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("a cluster volume outside a cluster: %v", err)
	}
}
