package xapisim

import (
	"fmt"
	"maps"
)

// build makes the pool's first objects. It is called with s.mu held.
func (s *Sim) build() error {
	lic := s.licence()
	s.pool = s.newObject("pool", map[string]any{
		"name_label": "xapisim", "restrictions": lic, "other_config": dictOf("cpuid_feature_mask", "", "allow_clone_suspended_vm", "false"),
		"ha_configuration": emptyMap, "default_SR": nullRef,
	})
	var nets []*object
	for i := range s.cfg.Networks {
		nets = append(nets, s.newObject("network", map[string]any{
			"name_label": fmt.Sprintf("Pool-wide network associated with eth%d", i), "bridge": fmt.Sprintf("xenbr%d", i), "MTU": int64(1500), "managed": true,
		}))
	}
	s.newObject("network", map[string]any{
		"name_label": "Host internal management network", "bridge": "xenapi", "MTU": int64(1500), "managed": true,
		"other_config": dictOf("is_guest_installer_network", "true", "is_host_internal_management_network", "true"),
	})
	for i := range s.cfg.Hosts {
		s.buildHost(i, nets)
	}
	s.set(s.pool, "master", s.nodes[0].host)
	for i := range s.cfg.SharedSRs {
		sr := s.newSR(fmt.Sprintf("Shared storage %d", i+1), s.cfg.SharedType, "user", true, s.all("host"))
		if s.pool.str("default_SR") == nullRef {
			s.set(s.pool, "default_SR", sr.ref)
			s.set(s.pool, "suspend_image_SR", sr.ref)
			s.set(s.pool, "crash_dump_SR", sr.ref)
		}
	}
	for i, h := range s.all("host") {
		for j := range s.cfg.LocalSRs {
			name := fmt.Sprintf("Local storage on %s", h.str("name_label"))
			if j > 0 {
				name += fmt.Sprintf(" (%d)", j+1)
			}
			sr := s.newSR(name, s.cfg.LocalType, "user", false, []*object{h})
			if s.pool.str("default_SR") == nullRef && i == 0 {
				s.set(s.pool, "default_SR", sr.ref)
				s.set(s.pool, "suspend_image_SR", sr.ref)
			}
			if j == 0 && s.cfg.SharedSRs == 0 {
				s.set(h, "suspend_image_sr", sr.ref)
			}
		}
	}
	iso := s.newSR("ISO library", "iso", "iso", true, s.all("host"))
	for _, name := range []string{"debian-12.iso", "guest-tools.iso"} {
		vdi := s.newObject("VDI", map[string]any{
			"name_label": name, "SR": iso.ref, "virtual_size": int64(700 << 20), "physical_utilisation": int64(700 << 20), "type": "user",
			"read_only": true, "sharable": true, "managed": true, "location": name,
		})
		s.disks[vdi.ref] = s.newLayer(nil)
		s.refreshVDI(vdi)
	}
	s.buildSM()
	if err := s.buildGPUs(); err != nil {
		return err
	}
	s.buildTemplates()
	for _, h := range s.all("host") {
		s.updateMemory(h)
		s.refreshHost(h)
	}
	return nil
}

func (s *Sim) buildHost(i int, nets []*object) {
	name := fmt.Sprintf("host%d", i+1)
	m := s.newObject("host_metrics", map[string]any{
		"memory_total": s.cfg.MemoryPerHost, "memory_free": s.cfg.MemoryPerHost, "live": true, "last_updated": s.now(),
	})
	caps := []any{"xen-3.0-x86_64", "xen-3.0-x86_32p", "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64"}
	if s.cfg.NoHVM {
		caps = caps[:2]
	}
	const gib = 1 << 30
	h := s.newObject("host", map[string]any{
		"name_label": name, "hostname": name, "name_description": "Simulated host", "address": s.nodes[i].addr, "enabled": true,
		"metrics": m.ref, "edition": s.cfg.Edition, "license_params": s.licence(), "capabilities": caps,
		"API_version_major": s.cfg.APIMajor, "API_version_minor": s.cfg.APIMinor, "API_version_vendor": "XenSource",
		"memory_overhead": int64(gib), "sched_policy": "credit", "license_server": dictOf("address", "localhost", "port", "27000"),
		"software_version": dictOf("product_version", s.cfg.ProductVersion, "product_version_text", s.cfg.ProductVersion, "xapi_build", s.cfg.Build, "platform_name", "XCP",
			"platform_version", "3.4.0", "product_brand", "XenServer-sim", "build_number", "0sim", "hostname", "localhost", "xapi", "0.0",
			"xen", "4.17.5", "linux", "6.6.0", "xencenter_min", "2.21", "xencenter_max", "2.21", "network_backend", "openvswitch", "db_schema", "5.775"),
		"cpu_info": dictOf("cpu_count", fmt.Sprint(s.cfg.CPUsPerHost), "socket_count", "2", "threads_per_core", "2", "vendor", "GenuineIntel", "speed", "2400.000",
			"modelname", "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "family", "6", "model", "106", "stepping", "6",
			"flags", "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx fxsr sse sse2 ss ht syscall nx rdtscp lm constant_tsc vmx ept vpid aes avx avx2",
			"features", "7ffefbff-bfebfbff-00000121-2c100800", "features_pv", "1fc9cbf5", "features_hvm", "1fcbfbff"),
		"chipset_info":          dictOf("iommu", fmt.Sprint(!s.cfg.NoIOMMU)),
		"other_config":          dictOf("agent_start_time", "1700000000.", "boot_time", "1700000000.", "iscsi_iqn", "iqn.2026-01.sim:"+name),
		"logging":               emptyMap,
		"bios_strings":          dictOf("bios-vendor", "xapisim", "system-manufacturer", "xapisim", "system-product-name", "virtual"),
		"supported_bootloaders": []any{"pygrub", "eliloader"}, "virtual_hardware_platform_versions": []any{int64(0), int64(1), int64(2)},
	})
	if s.cfg.Build == "none" {
		s.drop(h, "software_version", "xapi_build")
	}
	s.nodes[i].host = h.ref
	for n := range s.cfg.CPUsPerHost {
		s.newObject("host_cpu", map[string]any{
			"host": h.ref, "number": int64(n), "vendor": "GenuineIntel", "speed": int64(2400), "modelname": "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
			"family": int64(6), "model": int64(106), "stepping": "6", "flags": "vmx ept", "features": "7ffefbff-bfebfbff",
		})
	}
	for n, net := range nets {
		pm := s.newObject("PIF_metrics", map[string]any{"carrier": true, "vendor_name": "Intel Corporation", "device_name": "I350", "speed": int64(10000), "duplex": true})
		s.newObject("PIF", map[string]any{
			"device": fmt.Sprintf("eth%d", n), "network": net.ref, "host": h.ref, "MAC": randomMAC(), "MTU": int64(1500), "VLAN": int64(-1),
			"metrics": pm.ref, "physical": true, "currently_attached": true, "management": n == 0, "ip_configuration_mode": "Static",
			"IP": s.nodes[i].addr, "netmask": "255.0.0.0", "managed": true, "primary_address_type": "IPv4",
		})
	}
	s.buildDom0(h, i)
}

func (s *Sim) buildDom0(h *object, i int) {
	const size = int64(2 << 30)
	dom0 := s.newObject("VM", map[string]any{
		"name_label": fmt.Sprintf("Control domain on host: host%d", i+1), "is_control_domain": true, "power_state": "Running", "domid": int64(0),
		"resident_on": h.ref, "affinity": h.ref, "memory_static_min": size, "memory_static_max": size, "memory_dynamic_min": size,
		"memory_dynamic_max": size, "memory_target": size, "VCPUs_max": int64(4), "VCPUs_at_startup": int64(4), "domain_type": "pv",
		"metrics": s.newObject("VM_metrics", map[string]any{"memory_actual": size, "VCPUs_number": int64(4), "current_domain_type": "pv"}).ref,
	})
	s.set(h, "control_domain", dom0.ref)
	s.refresh(dom0)
}

// newSR makes a storage repository for the given hosts.
func (s *Sim) newSR(name, kind, content string, shared bool, hosts []*object) *object {
	sr := s.newObject("SR", map[string]any{
		"name_label": name, "type": kind, "content_type": content, "shared": shared, "physical_size": s.cfg.SRSize, "sm_config": emptyMap,
		"allowed_operations": anys([]string{"vdi_create", "vdi_destroy", "vdi_clone", "vdi_snapshot", "vdi_resize", "vdi_mirror", "scan", "unplug", "plug", "update", "forget"}),
	})
	for _, h := range hosts {
		s.newObject("PBD", map[string]any{"host": h.ref, "SR": sr.ref, "currently_attached": true, "device_config": dictOf("location", "sim:"+sr.str("uuid"))})
	}
	return sr
}

// buildSM lists the storage drivers with their features.
func (s *Sim) buildSM() {
	full := map[string]any{}
	for _, f := range []string{"VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH", "VDI_UPDATE", "VDI_CLONE", "VDI_SNAPSHOT", "VDI_RESIZE", "VDI_MIRROR", "VDI_RESET_ON_BOOT", "SR_SCAN", "SR_ATTACH"} {
		full[f] = int64(1)
	}
	plain := map[string]any{"VDI_ATTACH": int64(1), "VDI_DETACH": int64(1), "SR_SCAN": int64(1), "SR_ATTACH": int64(1)}
	for _, t := range []string{"ext", "nfs", "lvm", "lvmoiscsi", "iso", "udev"} {
		f := full
		switch t {
		case "iso", "udev":
			f = plain
		case "nfs", "lvmoiscsi": // they can be attached before xapi runs
			f = maps.Clone(full)
			f["VDI_GENERATE_CONFIG"] = int64(1)
		}
		s.newObject("SM", map[string]any{"type": t, "name_label": t, "vendor": "sim", "features": f, "version": "3.0", "driver_filename": "/opt/xensource/sm/" + t})
	}
}

// buildTemplates makes a default template, which can't be destroyed, and a custom one with a disk.
func (s *Sim) buildTemplates() {
	const gib = int64(1 << 30)
	base := func(name string) map[string]any {
		return map[string]any{
			"name_label": name, "is_a_template": true, "memory_static_min": gib / 2, "memory_static_max": gib, "memory_dynamic_min": gib,
			"memory_dynamic_max": gib, "memory_target": gib, "VCPUs_max": int64(1), "VCPUs_at_startup": int64(1), "HVM_boot_policy": "BIOS order",
			"HVM_boot_params": dictOf("order", "cdn", "firmware", "bios"), "domain_type": "hvm", "HVM_shadow_multiplier": 1.0,
			"platform":               dictOf("acpi", "1", "apic", "true", "pae", "true", "nx", "true", "viridian", "false", "videoram", "8", "device-model", "qemu-upstream-compat"),
			"actions_after_shutdown": "destroy", "actions_after_reboot": "restart", "actions_after_crash": "restart",
		}
	}
	preset := base("Debian Bookworm 12")
	preset["other_config"] = dictOf("default_template", "true", "install-methods", "cdrom,nfs,http",
		"disks", `<provision><disk device="0" size="10737418240" sr="" bootable="true" type="system"/></provision>`)
	t := s.createVM(preset)
	s.set(t, "is_default_template", true)
	s.refresh(t)
	other := s.createVM(base("Other install media"))
	s.put(other, "other_config", "default_template", "true")
	s.set(other, "is_default_template", true)
	s.refresh(other)
}
