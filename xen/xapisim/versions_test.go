package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestBuilds repeats what was recorded from a xapi 24.11, and what a current one does.
func TestBuilds(t *testing.T) {
	_, c := start(t, xapisim.Config{Build: "24.11.0"})
	host := list(c.must("host.get_all"))[0]
	c.refused("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"host.disable", "1", "2"}, "host.disable", host, false)
	c.must("host.disable", host)
	pci := list(c.must("PCI.get_all"))[0]
	c.refused("MESSAGE_METHOD_UNKNOWN", []string{"PCI.get_class_id"}, "PCI.get_class_id", pci)
	c.refused("MESSAGE_METHOD_UNKNOWN", []string{"PCI.disable_dom0_access"}, "PCI.disable_dom0_access", pci)
	rec, _ := c.must("PCI.get_record", pci).(map[string]any)
	if rec["class_name"] == "" || rec["vendor_name"] == "" || rec["class_id"] != nil || rec["vendor_id"] != nil || rec["device_id"] != nil {
		t.Errorf("%v", rec)
	}

	_, c = start(t, xapisim.Config{})
	c.must("host.disable", list(c.must("host.get_all"))[0], false)
	rec, _ = c.must("PCI.get_record", list(c.must("PCI.get_all"))[0]).(map[string]any)
	if rec["class_id"] == nil || rec["vendor_id"] == nil {
		t.Errorf("%v", rec)
	}
}
