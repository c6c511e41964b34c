package main

// classes names what the driver and the simulator use.
const classes = `session event task pool pool_update VM VM_metrics VM_guest_metrics VM_appliance VM_group VMSS host host_metrics
host_cpu network VIF VIF_metrics PIF PIF_metrics Bond VLAN SM SR VDI VBD VBD_metrics PBD console crashdump message PCI PGPU
GPU_group VGPU VGPU_type network_sriov VTPM PUSB USB_group VUSB Feature blob secret role tunnel`

// syncOnly lists the explicit messages that have no Async form. The published model leaves this out; the fact is
// the flags argument of each call in xen-api's ocaml/idl/datamodel*.ml.
var syncOnly = map[string]string{
	"SR":  "forget_data_source_archives get_data_sources get_supported_types query_data_source record_data_source set_physical_size",
	"VDI": "get_nbd_info set_read_only set_sharable",
	"VM": `add_to_NVRAM forget_data_source_archives get_allowed_VBD_devices get_allowed_VIF_devices get_boot_record
get_data_sources query_data_source record_data_source remove_from_NVRAM set_HVM_boot_policy set_HVM_shadow_multiplier set_NVRAM
set_VCPUs_at_startup set_VCPUs_max set_domain_type set_ha_always_run set_ha_restart_priority set_memory_dynamic_max
set_memory_dynamic_min set_memory_static_max set_memory_static_min set_protection_policy set_snapshot_schedule
add_to_other_config remove_from_other_config set_other_config add_to_platform remove_from_platform set_platform`,
	"VMSS":  "add_to_schedule remove_from_schedule set_frequency set_last_run_time set_retained_snapshots set_schedule set_type snapshot_now",
	"blob":  "create destroy",
	"event": "get_current_id inject next from",
	"host": `apply_edition backup_rrds call_extension disable_external_auth disable_local_storage_caching
emergency_clear_mandatory_guidance emergency_disable_tls_verification emergency_ha_disable emergency_reenable_tls_verification
emergency_reset_server_certificate enable_external_auth enable_local_storage_caching external_auth_set_ldaps
forget_data_source_archives get_data_sources get_server_localtime get_servertime get_system_status_capabilities list_methods
local_management_reconfigure management_disable query_data_source record_data_source reset_cpu_features set_cpu_features
set_hostname_live shutdown_agent sync_data`,
	"message": "create destroy get get_all get_all_records get_all_records_where get_by_uuid get_record get_since",
	"pool": `detect_nonhomogeneous_external_auth disable_external_auth emergency_reset_master emergency_transition_to_master
enable_external_auth enable_tls_verification external_auth_set_ldaps get_guest_secureboot_readiness
ha_compute_hypothetical_max_host_failures_to_tolerate ha_compute_max_host_failures_to_tolerate ha_compute_vm_failover_plan
ha_failover_plan_exists ha_prevent_restarts_for set_ext_auth_max_threads set_local_auth_max_threads test_archive_target`,
	"role":    "get_by_permission get_by_permission_name_label get_permissions get_permissions_name_label",
	"session": "change_password local_logout login_with_password logout slave_local_login_with_password create_from_db_file",
	"task":    "create destroy set_error_info set_progress set_result set_status add_to_other_config remove_from_other_config set_other_config",
}
