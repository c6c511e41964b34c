package hvsim

import (
	"crypto/rand"
	"crypto/x509"
	"time"
)

// Edition is the Windows edition of a host. It decides which features exist.
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
	// Clock returns the time; nil means time.Now. See also Sim.Advance.
	Clock func() time.Time
	// JobTime is the time that a job takes; 0 means 10 ms, negative means that the job has ended when the method returns.
	JobTime time.Duration
	// JobTimes overrides JobTime by method name ("MigrateVirtualSystemToHost"); "Merge" is the disk merge after the removal of a
	// checkpoint.
	JobTimes map[string]time.Duration
	// JobRetention is the time for which a finished job can be read; 0 means 5 minutes [D: TimeBeforeRemoval].
	JobRetention time.Duration
	// AllJobs makes every method that may start a job start one. Otherwise short ones return 0 at once.
	AllJobs bool
	// Users maps user names to passwords; nil means Administrator with a random password, which Sim.Password returns.
	Users map[string]string
	// Rights of users who are no administrators.
	Rights map[string]Rights
	// AllowUnencrypted lets plain HTTP carry Basic authentication and clear-text messages, as WinRM's setting of that name does.
	AllowUnencrypted bool
	// NoBasic switches Basic authentication off, like on a fresh Windows.
	NoBasic bool
	// RequireChannelBinding refuses NTLM logins over HTTPS that are not bound to the channel (CbtHardeningLevel Strict).
	RequireChannelBinding bool
	// NTLMWithout are negotiate flags [D: MS-NLMP 2.2.2.5] that the hosts leave out of their CHALLENGE messages, like an old or
	// badly configured server, or an impostor.
	NTLMWithout uint32
	// Keytab is a file with the keys of the hosts' services, HTTP/<name>@<realm>. With it hosts accept Kerberos logins, like
	// members of a domain, from users whose name without the realm is in Users. It is read for each login.
	Keytab string
	// ClientCertificate is mapped to a user and may log in over HTTPS.
	ClientCertificate *x509.Certificate
	// MaxEnvelopeKB is WinRM's MaxEnvelopeSizekb; 0 means 500.
	MaxEnvelopeKB int
	// OldFaults makes hosts report refusals by WMI in the form of WinRM 2.0, which names no CIM status.
	OldFaults bool
}

// ClusterConfig describes a failover cluster over all hosts.
type ClusterConfig struct {
	Name string
	// Root is the folder of the cluster shared volumes on each host; "" means C:\ClusterStorage [D: SharedVolumesRoot of "Cluster
	// Common Properties"].
	Root string
	// Volumes are names of cluster shared volumes, seen on each host as <Root>\<name>.
	Volumes []string
}

// HostConfig describes one host. Zero fields get the values in their comments.
type HostConfig struct {
	Name         string // HV01, HV02, …
	Edition      Edition
	Build        int    // of Windows: it decides which classes and properties there are; 20348 (Server 2022) or 22631 (client)
	MemoryMB     uint64 // 65536
	Processors   int    // logical processors: 16
	NUMANodes    int    // 1
	CPU          CPU
	Switches     []Switch // one external switch "External"
	GPUs         []GPU
	Devices      []Device
	NoHyperV     bool // the namespace root\virtualization\v2 does not exist
	NoMigration  bool // live migration is switched off in the host's settings
	NoDelegation bool // the host may not act for the caller on others: migrations fail for lack of credentials
	// MigrationCredSSP is how Windows installs the migration service: it needs the credentials of a user who is logged in on the host.
	MigrationCredSSP bool
	NoListeners      bool // live migration is on, and no network is named for it
	StoredCase       bool // CIM_DataFile names files as they are stored, not in lower case
	Japanese         bool // texts of jobs and errors are not English
	NoSLAT           bool
	NoIOMMU          bool
	MigrationAddr    string // address that the migration service listens on: 10.0.0.<n>
	DiskMB           uint64 // capacity of C: in MB: 1 TB
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
	NoIOV bool // the adapter behind it does not support SR-IOV
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
		c.Users = map[string]string{"Administrator": rand.Text()}
	}
	if c.MaxEnvelopeKB == 0 {
		c.MaxEnvelopeKB = 500
	}
}
