package xapisim

import (
	"fmt"
	"slices"
)

// restrictFlags are the licence flags that the pool has (xen-api ocaml/xapi-types/features.ml: one restrict_ key for most features).
var restrictFlags = []string{
	"vlan", "qos", "pool_attached_storage", "netapp", "equalogic", "pooling", "pool_size", "marathon", "email_alerting",
	"historical_performance", "wlb", "rbac", "dmc", "checkpoint", "cpu_masking", "connection", "filter", "vswitch_controller",
	"vmpr", "vmss", "intellicache", "gpu", "dr", "vif_locking", "storage_xen_motion", "vgpu", "integrated_gpu_passthrough", "vss",
	"xen_motion", "guest_agent_auto_update", "pci_device_for_auto_update", "hotfix_apply", "guest_ip_setting", "igmp_snooping",
	"rpu", "nested_virt", "live_patching", "set_vcpus_number_live", "pvs_proxy", "corosync", "cbt", "ssl_legacy_switch", "usb_passthrough",
	"network_sriov", "automatic_updates", "nutanix_ahv", "updates", "vtpm", "vm_groups", "vm_start", "vm_appliance_start",
}

// restricted reports whether the licence lacks a feature. Only HA's flag means that the feature is available: enable_xha.
func (s *Sim) restricted(feature string) bool {
	if s.pool == nil {
		return false
	}
	if feature == "xha" {
		return s.pool.entry("restrictions", "enable_xha") != "true"
	}
	return s.pool.entry("restrictions", "restrict_"+feature) == "true"
}

func (s *Sim) licence() map[string]any {
	m := map[string]any{}
	for _, f := range restrictFlags {
		m["restrict_"+f] = fmt.Sprint(slices.Contains(s.cfg.Restrictions, f))
	}
	for _, f := range s.cfg.Restrictions {
		m["restrict_"+f] = "true"
	}
	delete(m, "restrict_xha")
	m["enable_xha"] = fmt.Sprint(!slices.Contains(s.cfg.Restrictions, "xha"))
	return m
}

// featureNames are the names in LICENCE_RESTRICTION (xen-api ocaml/xapi-types/features.ml).
var featureNames = map[string]string{
	"storage_xen_motion": "Storage_motion", "xen_motion": "Xen_motion", "checkpoint": "Checkpoint", "wlb": "WLB", "dmc": "DMC", "xha": "HA",
	"set_vcpus_number_live": "Live_set_vcpus", "network_sriov": "Network_sriov", "nested_virt": "Nested_virt", "vm_start": "VM_start",
	"vgpu": "VGPU", "gpu": "GPU", "usb_passthrough": "USB_passthrough", "vm_groups": "VM_groups", "cbt": "CBT",
}

// licensed refuses what the edition lacks.
func (s *Sim) licensed(feature string) error {
	if s.restricted(feature) {
		return fail("LICENCE_RESTRICTION", featureNames[feature])
	}
	return nil
}
