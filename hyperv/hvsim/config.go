package hvsim

import (
	"crypto/x509"
	"time"
)

// Edition is the Windows edition of a host; it decides which features exist.
type Edition int

// Editions.
const (
	ServerDatacenter Edition = iota
	ServerStandard
	HyperVServer
	AzureStackHCI
	WindowsPro
	WindowsEnterprise
)

// sku is Win32_OperatingSystem.OperatingSystemSKU [D: Win32_OperatingSystem].
var editions = map[Edition]struct {
	sku     uint32
	caption string
}{
	ServerDatacenter:  {8, "Microsoft Windows Server %d Datacenter"},
	ServerStandard:    {7, "Microsoft Windows Server %d Standard"},
	HyperVServer:      {42, "Microsoft Hyper-V Server %d"},
	AzureStackHCI:     {406, "Microsoft Azure Stack HCI"},
	WindowsPro:        {48, "Microsoft Windows 11 Pro"},
	WindowsEnterprise: {4, "Microsoft Windows 11 Enterprise"},
}

// client reports whether e is a Windows client edition, which has no live migration, no DDA, no Replica
// [D: "Hyper-V on Windows 10": features that are on Windows Server only].
func (e Edition) client() bool { return e == WindowsPro || e == WindowsEnterprise }

// Config describes a simulated site. The zero value is one Datacenter host without machines.
type Config struct {
	Hosts []HostConfig
	// Cluster, if set, joins all hosts into a failover cluster.
	Cluster *ClusterConfig
	// Clock gives the time; nil means time.Now. See also Sim.Advance.
	Clock func() time.Time
	// JobTime is how long a job takes; 0 means 10 ms, negative means that it is done when the method returns.
	JobTime time.Duration
	// JobTimes overrides JobTime by method name ("MigrateVirtualSystemToHost"); "Merge" is the disk merge after a checkpoint goes.
	JobTimes map[string]time.Duration
	// JobRetention is how long a finished job can be read; 0 means 5 minutes [D: TimeBeforeRemoval].
	JobRetention time.Duration
	// AllJobs makes every method that may start a job start one. Otherwise short ones return 0 at once.
	AllJobs bool
	// Users maps user names to passwords; nil means Administrator with DefaultPassword.
	Users map[string]string
	// AllowUnencrypted lets plain HTTP carry Basic authentication and clear-text messages, as WinRM's setting of that name does.
	AllowUnencrypted bool
	// NoBasic switches Basic authentication off, as it is on a fresh Windows.
	NoBasic bool
	// RequireChannelBinding refuses NTLM logins over HTTPS that are not bound to the channel (CbtHardeningLevel Strict).
	RequireChannelBinding bool
	// Keytab is a file with the keys of the hosts' services, HTTP/<name>@<realm>. With it hosts take Kerberos logins, as
	// members of a domain do: of users whose name without the realm is in Users. It is read for each login.
	Keytab string
	// ClientCertificate is mapped to a user and may log in over HTTPS.
	ClientCertificate *x509.Certificate
	// MaxEnvelopeKB is WinRM's MaxEnvelopeSizekb; 0 means 500.
	MaxEnvelopeKB int
}

// DefaultPassword is the password of Administrator when Config.Users is nil.
const DefaultPassword = "Passw0rd!"

// ClusterConfig describes a failover cluster over all hosts.
type ClusterConfig struct {
	Name string
	// Volumes are names of cluster shared volumes, seen on each host as C:\ClusterStorage\<name>.
	Volumes []string
}

// HostConfig describes one host. Zero fields get the values in their comments.
type HostConfig struct {
	Name          string // HV01, HV02, …
	Edition       Edition
	Build         int    // 20348 (Server 2022) or 22631 (client)
	MemoryMB      uint64 // 65536
	Processors    int    // logical processors: 16
	NUMANodes     int    // 1
	CPU           CPU
	Switches      []Switch // one external switch "External"
	GPUs          []GPU
	Devices       []Device
	NoHyperV      bool // the namespace root\virtualization\v2 does not exist
	NoMigration   bool // live migration is switched off in the host's settings
	NoDelegation  bool // the host may not act for the caller on others: migrations fail for want of credentials
	NoSLAT        bool
	NoIOMMU       bool
	MigrationAddr string // address that the migration service listens on: 10.0.0.<n>
	DiskMB        uint64 // capacity of C: in MB: 1 TB
}

// CPU is a host's processor. Live migration needs the same vendor, and on the target every feature that the machine
// has seen, unless the machine limits its processor features.
type CPU struct {
	Vendor   string // GenuineIntel
	Model    string // Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
	Features []string
}

// Switch is a virtual switch.
type Switch struct {
	Name  string
	IOV   bool // SR-IOV is enabled on it
	NoIOV bool // the adapter behind cannot do SR-IOV
}

// GPU is a physical GPU: assignable as a whole, and as partitions where PartitionCounts is set.
type GPU struct {
	Device
	// PartitionCounts are the counts that the driver accepts; empty means not partitionable.
	PartitionCounts []uint16
	// VRAM is in bytes; 0 means 16 GiB.
	VRAM uint64
}

// Device is a PCI Express function of the host.
type Device struct {
	Name     string // NVIDIA A2
	Vendor   uint16 // 0x10DE
	Product  uint16 // 0x25B6
	Class    string // PnP class: Display for GPUs, Net, System…
	Location string // PCIROOT(0)#PCI(0100)#PCI(0000)
	NoACS    bool   // lacks Access Control Services: dismount is refused without RequireAcsSupport false
}

func (c *Config) fill() {
	if len(c.Hosts) == 0 {
		c.Hosts = []HostConfig{{}}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.JobTime == 0 {
		c.JobTime = 10 * time.Millisecond
	}
	if c.JobRetention == 0 {
		c.JobRetention = 5 * time.Minute
	}
	if c.Users == nil {
		c.Users = map[string]string{"Administrator": DefaultPassword}
	}
	if c.MaxEnvelopeKB == 0 {
		c.MaxEnvelopeKB = 500
	}
}
