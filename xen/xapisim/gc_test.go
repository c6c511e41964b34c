package xapisim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// chain lists the images that a disk depends on.
func (c *client) chain(vdi string) (out []string) {
	c.t.Helper()
	all, _ := c.must("VDI.get_all_records").(map[string]any) // of one moment
	byUUID := map[string]map[string]any{}
	for _, r := range all {
		rec := r.(map[string]any)
		byUUID[rec["uuid"].(string)] = rec
	}
	for rec, _ := all[vdi].(map[string]any); ; {
		p, _ := rec["sm_config"].(map[string]any)["vhd-parent"].(string)
		if p == "" {
			return out
		}
		out = append(out, p)
		if rec = byUUID[p]; rec["managed"] != false {
			c.t.Fatalf("%s is not hidden: %v", p, rec)
		}
	}
}

func (c *client) waitChain(vdi string, want int) {
	c.t.Helper()
	for range 400 {
		if len(c.chain(vdi)) == want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Errorf("the chain is %v, want %d", c.chain(vdi), want)
}

// TestGarbageCollector: images are merged some time after VDI.destroy, not by it, and only where nothing else depends on them.
func TestGarbageCollector(t *testing.T) {
	sim, c := start(t, xapisim.Config{GCPause: 100 * time.Millisecond})
	vm := c.newVM("db", nil)
	vdi, _ := c.addDisk(vm, "0", 8<<30)
	if err := sim.WriteDisk(vdi, 1, "one"); err != nil {
		t.Fatal(err)
	}
	var snaps []string
	for i := range 3 {
		s := c.ref("VM.snapshot", vm, fmt.Sprint("s", i))
		snaps = append(snaps, s)
	}
	if got := c.chain(vdi); len(got) != 3 {
		t.Fatalf("with three snapshots it depends on %v", got)
	}
	drop := func(s string) {
		image := c.diskOf(s)
		c.must("VM.destroy", s)
		c.must("VDI.destroy", image)
	}
	drop(snaps[1])
	if got := c.chain(vdi); len(got) != 3 {
		t.Errorf("right after VDI.destroy it depends on %v", got)
	}
	c.waitChain(vdi, 2)
	sr := c.ref("VDI.get_SR", vdi)
	c.must("SR.add_to_other_config", sr, "leaf-coalesce", "false")
	drop(snaps[2])
	drop(snaps[0])
	c.waitChain(vdi, 1)
	c.must("SR.remove_from_other_config", sr, "leaf-coalesce")
	spare := c.ref("VDI.create", map[string]any{"name_label": "spare", "name_description": "", "SR": sr, "virtual_size": 1 << 30, "type": "user", "sharable": false,
		"read_only": false, "other_config": map[string]any{}, "xenstore_data": map[string]any{}, "sm_config": map[string]any{}, "tags": []any{}})
	c.must("VDI.destroy", spare)
	c.waitChain(vdi, 0)
	if got := must[map[int64]string](t)(sim.ReadDisk(vdi)); got[1] != "one" {
		t.Errorf("it holds %v", got)
	}
}
