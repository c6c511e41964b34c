package xapisim

import (
	"slices"
	"strings"
)

// The rules for the operations on a VM, in the order of xen-api's ocaml/xapi/xapi_vm_lifecycle.ml (check_operation_error).

// powerStates returns the states in which an operation may begin (allowed_power_states).
func (s *Sim) powerStates(vm *object, op string) []string {
	switch op {
	case "changing_VCPUs", "changing_static_range", "changing_memory_limits":
		if vm.is("is_control_domain") {
			return []string{"Halted", "Running"}
		}
		return []string{"Halted"}
	case "changing_shadow_memory", "changing_NVRAM", "make_into_template", "provision", "start", "start_on", "create_vtpm":
		return []string{"Halted"}
	case "unpause":
		return []string{"Paused"}
	case "csvm", "resume", "resume_on":
		return []string{"Suspended"}
	case "changing_dynamic_range":
		return []string{"Halted", "Running"}
	case "clone", "copy":
		if vm.is("is_a_snapshot") || s.pool.entry("other_config", "allow_clone_suspended_vm") == "true" {
			return []string{"Halted", "Suspended"}
		}
		return []string{"Halted"}
	case "create_template", "destroy", "export":
		return []string{"Halted", "Suspended"}
	case "hard_reboot":
		return []string{"Paused", "Running"}
	case "checkpoint", "get_boot_record", "shutdown", "hard_shutdown":
		return []string{"Paused", "Suspended", "Running"}
	case "migrate_send":
		return []string{"Halted", "Suspended", "Running"}
	case "assert_operation_valid", "metadata_export", "power_state_reset", "revert", "reverting", "snapshot",
		"update_allowed_operations", "query_services":
		return []string{"Halted", "Paused", "Suspended", "Running"}
	case "import":
		return nil
	}
	return []string{"Running"}
}

// concurrent reports whether op may join the operations in progress (is_allowed_concurrently).
func concurrent(op string, current []string) bool {
	all := func(set ...string) bool {
		return slices.Contains(set, op) && !slices.ContainsFunc(current, func(o string) bool { return !slices.Contains(set, o) })
	}
	if all("clone", "copy", "export") || all("snapshot", "checkpoint") || all("get_boot_record") {
		return true
	}
	switch op {
	case "hard_shutdown":
		return !slices.Contains(current, op)
	case "hard_reboot":
		return !slices.Contains(current, "hard_shutdown") && !slices.Contains(current, "hard_reboot")
	case "snapshot":
		return slices.Equal(current, []string{"snapshot_with_quiesce"})
	case "metadata_export", "clean_shutdown", "clean_reboot":
		return slices.Equal(current, []string{"migrate_send"})
	}
	return false
}

var (
	templateOps = strings.Fields("changing_dynamic_range changing_static_range changing_memory_limits changing_shadow_memory " +
		"changing_VCPUs changing_NVRAM clone copy export metadata_export provision")
	snapshotOps = strings.Fields("revert clone copy export destroy hard_shutdown metadata_export")
	controlOps  = strings.Fields("data_source_op changing_memory_live awaiting_memory_live metadata_export changing_dynamic_range " +
		"changing_memory_limits changing_static_range start start_on changing_VCPUs destroy")
	movingOps = []string{"suspend", "checkpoint", "pool_migrate", "migrate_send"}
)

// checkOp returns the first reason why an operation can't be done now, or nil.
func (s *Sim) checkOp(vm *object, op string) error {
	ref, state := vm.ref, vm.str("power_state")
	if v, ok := vm.dict("blocked_operations")[op]; ok {
		return fail("OPERATION_BLOCKED", ref, v.(string))
	}
	if ok := s.powerStates(vm, op); !slices.Contains(ok, state) {
		return fail("VM_BAD_POWER_STATE", ref, strings.ToLower(strings.Join(ok, ", ")), strings.ToLower(state))
	}
	if err := s.checkCurrent(vm, op); err != nil {
		return err
	}
	template, snapshot := vm.is("is_a_template"), vm.is("is_a_snapshot")
	if template && !snapshot && !slices.Contains(templateOps, op) {
		preset := vm.is("is_default_template") || vm.entry("other_config", "default_template") == "true"
		if preset || (op != "destroy" && op != "migrate_send") {
			return fail("VM_IS_TEMPLATE", ref, op)
		}
	}
	if snapshot && !slices.Contains(snapshotOps, op) {
		return fail("VM_IS_SNAPSHOT", ref, op)
	}
	if op == "provision" && !template {
		return fail("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
	}
	if op == "revert" && !snapshot {
		return fail("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")
	}
	moving := slices.Contains(movingOps, op)
	if moving && (s.flag(vm, "nomigrate") || s.flag(vm, "nested_virt")) {
		return fail("VM_IS_IMMOBILE", ref)
	}
	if op == "changing_dynamic_range" && s.flag(vm, "nested_virt") {
		return fail("VM_IS_USING_NESTED_VIRT", ref)
	}
	if vm.is("is_control_domain") {
		if op == "changing_VCPUs" || op == "destroy" {
			return fail("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
		}
		if !slices.Contains(controlOps, op) {
			return fail("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain")
		}
	}
	if err := s.checkFeature(vm, op, moving); err != nil {
		return err
	}
	if op == "snapshot_with_quiesce" {
		return fail("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", ref)
	}
	if err := s.checkDevices(vm, op, moving); err != nil {
		return err
	}
	if op == "make_into_template" {
		for _, x := range []struct{ field, class, code string }{
			{"appliance", "VM_appliance", "VM_IS_PART_OF_AN_APPLIANCE"},
			{"snapshot_schedule", "VMSS", "VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE"},
		} {
			if s.look(x.class, vm.str(x.field)) != nil {
				return fail(x.code, ref, vm.str(x.field))
			}
		}
	}
	if op == "create_vtpm" && len(vm.refs("VTPMs")) > 0 {
		return fail("VTPM_MAX_AMOUNT_REACHED", "1")
	}
	return nil
}

// checkCurrent refuses what can't run beside the operations in progress: [class, ref, operation, operation's task].
func (s *Sim) checkCurrent(vm *object, op string) error {
	cur := vm.dict("current_operations")
	if len(cur) == 0 {
		return nil
	}
	var tasks, ops []string
	for t, o := range cur {
		tasks, ops = append(tasks, t), append(ops, o.(string))
	}
	if concurrent(op, ops) {
		return nil
	}
	if len(ops) == 1 {
		return fail("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, ops[0], tasks[0])
	}
	return fail("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, "{"+strings.Join(ops, ",")+"}", "{"+strings.Join(tasks, ",")+"}")
}

// flag reads nomigrate and nested_virt: of the running domain in VM_metrics, else from platform.
func (s *Sim) flag(vm *object, name string) bool {
	if m := s.look("VM_metrics", vm.str("metrics")); m != nil && vm.str("power_state") != "Halted" {
		return m.is(name)
	}
	v := vm.entry("platform", map[string]string{"nomigrate": "nomigrate", "nested_virt": "nested-virt"}[name])
	return v == "1" || v == "true"
}

// checkFeature refuses what the guest would have to support and doesn't (check_op_for_feature, strict).
func (s *Sim) checkFeature(vm *object, op string, moving bool) error {
	live := vm.str("power_state") == "Running" || vm.str("power_state") == "Paused"
	gm := s.look("VM_guest_metrics", vm.str("guest_metrics"))
	has := func(f string) bool { return gm != nil && gm.entry("other", f) == "1" }
	drivers := gm != nil && gm.entry("PV_drivers_version", "major") != ""
	m := s.look("VM_metrics", vm.str("metrics"))
	pv := m != nil && slices.Contains([]string{"pv", "pvh", "pv_in_pvh"}, m.str("current_domain_type"))
	implicit := !live || pv || drivers
	if moving && live {
		if gm != nil && gm.entry("other", "data-cant-suspend-reason") != "" {
			return fail("VM_NON_SUSPENDABLE", vm.ref, gm.entry("other", "data-cant-suspend-reason"))
		}
		if !implicit && !has("feature-suspend") {
			return fail("VM_LACKS_FEATURE", vm.ref)
		}
		return nil
	}
	if implicit {
		return nil
	}
	switch {
	case op == "clean_shutdown" && !has("feature-shutdown") && !has("feature-poweroff"),
		op == "clean_reboot" && !has("feature-shutdown") && !has("feature-reboot"),
		op == "changing_VCPUs_live" && !has("feature-vcpu-hotplug"):
		return fail("VM_LACKS_FEATURE", vm.ref)
	}
	return nil
}

// checkDevices refuses what disks that reset, passed-through devices, vGPUs and USB devices forbid.
func (s *Sim) checkDevices(vm *object, op string, moving bool) error {
	reset, caching := false, false
	for _, b := range vm.refs("VBDs") {
		if vdi := s.look("VDI", s.look("VBD", b).str("VDI")); vdi != nil && vdi.entry("sm_config", "on_boot") == "reset" {
			reset = true
			caching = caching || vdi.entry("sm_config", "caching") == "true"
		}
	}
	switch op {
	case "snapshot", "checkpoint", "suspend":
		if reset {
			return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
		}
	case "pool_migrate":
		if reset && caching {
			return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
		}
	}
	if moving && slices.ContainsFunc(vm.refs("attached_PCIs"), func(p string) bool { return !s.sriovPCI(vm, p) }) {
		return fail("VM_HAS_PCI_ATTACHED", vm.ref)
	}
	if len(vm.refs("VGPUs")) > 0 && moving {
		state := vm.str("power_state")
		fine := (op == "migrate_send" && state == "Halted") || (op == "checkpoint" && state == "Suspended")
		if !fine && slices.ContainsFunc(vm.refs("VGPUs"), func(v string) bool { return !s.movableVGPU(v) }) {
			return fail("VM_HAS_VGPU", vm.ref)
		}
	}
	if (moving || op == "snapshot") && len(vm.refs("VUSBs")) > 0 {
		return fail("VM_HAS_VUSBS", vm.ref)
	}
	return nil
}

// ignoredOps are never listed in allowed_operations.
var ignoredOps = strings.Fields("create_template power_state_reset csvm get_boot_record send_sysrq send_trigger query_services shutdown " +
	"call_plugin changing_memory_live awaiting_memory_live changing_memory_limits changing_shadow_memory_live changing_VCPUs " +
	"assert_operation_valid data_source_op update_allowed_operations import reverting")

// shownOps are those that the simulator's version lists. A real xapi 24.11 listed neither metadata_export nor sysprep.
func (s *Sim) refresh(vm *object) {
	var ok []any
	for _, op := range s.model.Enum("vm_operations") {
		if slices.Contains(ignoredOps, op) || op == "metadata_export" || op == "sysprep" {
			continue
		}
		if s.checkOp(vm, op) == nil {
			ok = append(ok, op)
		}
	}
	slices.Reverse(ok) // xapi builds the list by consing
	if ok == nil {
		ok = emptySet
	}
	if have, _ := vm.val("allowed_operations").([]any); !slices.Equal(have, ok) {
		s.set(vm, "allowed_operations", ok)
	}
}

// withOp runs f as an operation of a VM: checked first, visible in current_operations meanwhile (with_vm_operation in
// message_forwarding.ml). A real xapi waits a while for an operation in progress to end before it refuses; the simulator refuses at once.
func (c *call) withOp(vm *object, op string, f func() (any, error)) (any, error) {
	if err := c.checkOp(vm, op); err != nil {
		return nil, err
	}
	task := c.taskRef()
	c.put(vm, "current_operations", task, op)
	c.refresh(vm)
	v, err := f()
	if !vm.gone {
		c.drop(vm, "current_operations", task)
		c.refresh(vm)
	}
	return v, err
}
