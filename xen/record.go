package xen

import (
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// The fields of XAPI's records that the driver reads. Names and types are
// those of the published data model.

// vmBrief holds the fields of a brief listing. Reading fewer makes it faster.
type vmBrief struct {
	UUID          string   `json:"uuid"`
	Name          string   `json:"name_label"`
	PowerState    string   `json:"power_state"`
	Template      bool     `json:"is_a_template"`
	IsSnapshot    bool     `json:"is_a_snapshot"`
	ControlDomain bool     `json:"is_control_domain"`
	ResidentOn    xapi.Ref `json:"resident_on"`
	MemoryTarget  int64    `json:"memory_target"`
	DynamicMax    int64    `json:"memory_dynamic_max"`
	DynamicMin    int64    `json:"memory_dynamic_min"`
	VCPUsStart    int64    `json:"VCPUs_at_startup"`
	Metrics       xapi.Ref `json:"metrics"`
}

type vmRec struct {
	vmBrief
	Description       string            `json:"name_description"`
	DefaultTemplate   bool              `json:"is_default_template"`
	Affinity          xapi.Ref          `json:"affinity"`
	StaticMax         int64             `json:"memory_static_max"`
	StaticMin         int64             `json:"memory_static_min"`
	VCPUsMax          int64             `json:"VCPUs_max"`
	VIFs              []xapi.Ref        `json:"VIFs"`
	VBDs              []xapi.Ref        `json:"VBDs"`
	VGPUs             []xapi.Ref        `json:"VGPUs"`
	AttachedPCIs      []xapi.Ref        `json:"attached_PCIs"`
	GuestMetrics      xapi.Ref          `json:"guest_metrics"`
	HVMBootParams     map[string]string `json:"HVM_boot_params"`
	DomainType        string            `json:"domain_type"`
	Other             map[string]string `json:"other_config"`
	Snapshots         []xapi.Ref        `json:"snapshots"`
	SnapshotOf        xapi.Ref          `json:"snapshot_of"`
	SnapshotTime      xapi.Time         `json:"snapshot_time"`
	SnapshotInfo      map[string]string `json:"snapshot_info"`
	SuspendVDI        xapi.Ref          `json:"suspend_VDI"`
	Parent            xapi.Ref          `json:"parent"`
	Children          []xapi.Ref        `json:"children"`
	CurrentOperations map[string]string `json:"current_operations"`
	AllowedOperations []string          `json:"allowed_operations"`
	Blocked           map[string]string `json:"blocked_operations"`
	Platform          map[string]string `json:"platform"`
	HAPriority        string            `json:"ha_restart_priority"`
	HAAlways          bool              `json:"ha_always_run"`
	Order             int64             `json:"order"`
}

type metricsBrief struct {
	VCPUs int64 `json:"VCPUs_number"`
}

type vmMetricsRec struct {
	metricsBrief
	Memory    int64     `json:"memory_actual"`
	StartTime xapi.Time `json:"start_time"`
	Installed xapi.Time `json:"install_time"`
}

type guestMetricsRec struct {
	OS        map[string]string `json:"os_version"`
	PVDrivers map[string]string `json:"PV_drivers_version"`
	Networks  map[string]string `json:"networks"`
	Other     map[string]string `json:"other"`
	Live      bool              `json:"live"`
}

type vbdRec struct {
	UUID       string   `json:"uuid"`
	VM         xapi.Ref `json:"VM"`
	VDI        xapi.Ref `json:"VDI"`
	UserDevice string   `json:"userdevice"`
	Mode       string   `json:"mode"`
	Type       string   `json:"type"`
	Empty      bool     `json:"empty"`
	Attached   bool     `json:"currently_attached"`

	Other map[string]string `json:"other_config"`
}

type vdiRec struct {
	UUID       string            `json:"uuid"`
	Name       string            `json:"name_label"`
	SR         xapi.Ref          `json:"SR"`
	VBDs       []xapi.Ref        `json:"VBDs"`
	Size       int64             `json:"virtual_size"`
	Used       int64             `json:"physical_utilisation"`
	Type       string            `json:"type"`
	ReadOnly   bool              `json:"read_only"`
	Sharable   bool              `json:"sharable"`
	Managed    bool              `json:"managed"`
	Missing    bool              `json:"missing"`
	SM         map[string]string `json:"sm_config"`
	Other      map[string]string `json:"other_config"`
	IsSnapshot bool              `json:"is_a_snapshot"`
	SnapshotOf xapi.Ref          `json:"snapshot_of"`
	CBT        bool              `json:"cbt_enabled"`
	OnBoot     string            `json:"on_boot"`
	ToolsISO   bool              `json:"is_tools_iso"`
}

type vifRec struct {
	UUID     string   `json:"uuid"`
	Device   string   `json:"device"`
	Network  xapi.Ref `json:"network"`
	VM       xapi.Ref `json:"VM"`
	MAC      string   `json:"MAC"`
	Attached bool     `json:"currently_attached"`
}

type srRec struct {
	UUID        string     `json:"uuid"`
	Name        string     `json:"name_label"`
	Type        string     `json:"type"`
	ContentType string     `json:"content_type"`
	Shared      bool       `json:"shared"`
	Size        int64      `json:"physical_size"`
	Used        int64      `json:"physical_utilisation"`
	PBDs        []xapi.Ref `json:"PBDs"`
}

type pbdRec struct {
	Host     xapi.Ref `json:"host"`
	SR       xapi.Ref `json:"SR"`
	Attached bool     `json:"currently_attached"`
}

type networkRec struct {
	UUID string     `json:"uuid"`
	Name string     `json:"name_label"`
	PIFs []xapi.Ref `json:"PIFs"`
}

type pifRec struct {
	Host       xapi.Ref   `json:"host"`
	Network    xapi.Ref   `json:"network"`
	VLAN       int64      `json:"VLAN"`
	Management bool       `json:"management"`
	SRIOVof    []xapi.Ref `json:"sriov_physical_PIF_of"`
	SRIOVlog   []xapi.Ref `json:"sriov_logical_PIF_of"`
	Can        []string   `json:"capabilities"`
}

type hostID struct {
	UUID string `json:"uuid"`
}

type hostRec struct {
	hostID
	Name         string            `json:"name_label"`
	Address      string            `json:"address"`
	Enabled      bool              `json:"enabled"`
	Software     map[string]string `json:"software_version"`
	Capabilities []string          `json:"capabilities"`
	CPU          map[string]string `json:"cpu_info"`
	Metrics      xapi.Ref          `json:"metrics"`
	Resident     []xapi.Ref        `json:"resident_VMs"`
	Edition      string            `json:"edition"`
	Chipset      map[string]string `json:"chipset_info"`
	PIFs         []xapi.Ref        `json:"PIFs"`
}

type hostMetricsRec struct {
	Total int64 `json:"memory_total"`
	Free  int64 `json:"memory_free"`
	Live  bool  `json:"live"`
}

type poolRec struct {
	UUID         string            `json:"uuid"`
	Name         string            `json:"name_label"`
	Master       xapi.Ref          `json:"master"`
	DefaultSR    xapi.Ref          `json:"default_SR"`
	Restrictions map[string]string `json:"restrictions"`
	WLBEnabled   bool              `json:"wlb_enabled"`
	WLBURL       string            `json:"wlb_url"`
	HA           bool              `json:"ha_enabled"`
	HAFailures   int64             `json:"ha_host_failures_to_tolerate"`
}

type pciRec struct {
	UUID         string     `json:"uuid"`
	ClassID      string     `json:"class_id"`
	ClassName    string     `json:"class_name"`
	VendorID     string     `json:"vendor_id"`
	VendorName   string     `json:"vendor_name"`
	DeviceID     string     `json:"device_id"`
	DeviceName   string     `json:"device_name"`
	Host         xapi.Ref   `json:"host"`
	Address      string     `json:"pci_id"`
	Dependencies []xapi.Ref `json:"dependencies"`
	Driver       string     `json:"driver_name"`
}

type pgpuRec struct {
	UUID       string             `json:"uuid"`
	PCI        xapi.Ref           `json:"PCI"`
	Group      xapi.Ref           `json:"GPU_group"`
	Host       xapi.Ref           `json:"host"`
	Enabled    []xapi.Ref         `json:"enabled_VGPU_types"`
	Resident   []xapi.Ref         `json:"resident_VGPUs"`
	Capacities map[xapi.Ref]int64 `json:"supported_VGPU_max_capacities"`
	Dom0       string             `json:"dom0_access"`
	Display    bool               `json:"is_system_display_device"`
	Compat     map[string]string  `json:"compatibility_metadata"`
}

type vgpuRec struct {
	UUID       string   `json:"uuid"`
	VM         xapi.Ref `json:"VM"`
	Group      xapi.Ref `json:"GPU_group"`
	Type       xapi.Ref `json:"type"`
	Device     string   `json:"device"`
	ResidentOn xapi.Ref `json:"resident_on"`
	Scheduled  xapi.Ref `json:"scheduled_to_be_resident_on"`
}

type vgpuTypeRec struct {
	UUID           string `json:"uuid"`
	Vendor         string `json:"vendor_name"`
	Model          string `json:"model_name"`
	Framebuffer    int64  `json:"framebuffer_size"`
	Implementation string `json:"implementation"`
}
