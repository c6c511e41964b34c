package vspheresim

import (
	"crypto/rand"
	"crypto/x509"
	"time"
)

// Model is the product that the simulator simulates.
type Model int

const (
	// VCenter is a vCenter Server with datacenters, clusters and hosts.
	VCenter Model = iota
	// ESXi is one stand-alone host: no clone, no template, no vMotion, no DRS.
	ESXi
)

// Editions for Config.Edition. The features of each are in the LicenseManager; the set is from VMware's comparison of vSphere editions (vSphere 8).
const (
	// EnterprisePlus has everything: DRS, vGPU, SR-IOV, storage DRS.
	EnterprisePlus = "enterprise-plus"
	// Standard has HA, vMotion and storage vMotion, but no DRS, vGPU or SR-IOV.
	Standard = "standard"
	// EssentialsPlus has HA and vMotion only.
	EssentialsPlus = "essentials-plus"
	// Essentials has neither.
	Essentials = "essentials"
	// Evaluation is the 60-day mode, with every feature.
	Evaluation = "evaluation"
)

// GPU is one display device that every host of the model gets; with another class it is another device, such as a
// network card (0x0200) with virtual functions.
type GPU struct {
	// VendorID and DeviceID are the PCI IDs, for example 0x10de and 0x2330.
	VendorID, DeviceID uint16
	// Vendor and Product are the names that the host reports.
	Vendor, Product string
	// Class is the PCI class and subclass; 0 means 0x0302 (3D controller).
	Class uint16
	// Address is the PCI address as ESXi writes it ("0000:3b:00.0"); empty means the next free one.
	Address string
	// MemoryMB is the size of the memory of the device, which the graphics info reports.
	MemoryMB int64
	// Profiles are the vGPU types into which the device can be divided ("grid_h100-80c"); none means no vGPU.
	Profiles []string
	// NoPassthrough makes the device one that the host cannot pass through (passthruCapable false).
	NoPassthrough bool
	// Passthrough makes the device passed through and active from the start.
	Passthrough bool
	// VirtualFunctions is the number of SR-IOV functions that the device offers; 0 means none.
	VirtualFunctions int
	// NUMANode is the node of the device, 0 or 1. The NUMA info of the host reports it.
	NUMANode int
}

// Config describes the simulated system. The zero value is a vCenter with one datacenter, one cluster of
// three hosts, two shared datastores, no machines and an Enterprise Plus licence.
type Config struct {
	Model Model
	// Version is that of vSphere: 6.5, 6.7, 7.0 or 8.0; empty means 8.0. 6.0 is for tests of clients that need more. A property, method or type that
	// was added later is refused.
	Version string

	// Datacenters is the number of datacenters, 1 if zero. They are named DC0, DC1, …
	Datacenters int
	// Clusters is the number of clusters in each datacenter, 1 if zero, none if negative (DC0_C0, …).
	Clusters int
	// HostsPerCluster is the number of hosts in each cluster, 3 if zero (DC0_C0_H0, …).
	HostsPerCluster int
	// StandaloneHosts is the number of hosts outside a cluster in each datacenter (DC0_H0, …).
	StandaloneHosts int
	// PoolsPerCluster is the number of resource pools below the root pool of each cluster (DC0_C0_RP1, …).
	PoolsPerCluster int
	// Datastores is the number of datastores that all hosts of a datacenter share, 2 if zero (LocalDS_0, …).
	Datastores int
	// OpaqueNetworks is the number of networks of NSX, which all hosts of all datacenters have (DC0_NSX0, …).
	OpaqueNetworks int
	// VMs is the number of machines in each cluster and on each stand-alone host, powered on
	// (DC0_C0_RP0_VM0, …). Use [Sim.AddVMs] for thousands.
	VMs int

	// HostCores and HostMemoryMB are the size of each host; 16 cores and 131072 MB if zero.
	HostCores    int
	HostMemoryMB int64

	// Edition is one of the editions above; EnterprisePlus if empty.
	Edition string
	// GPUs are the display devices of every host.
	GPUs []GPU
	// Tools makes VMware Tools run in every machine that is powered on, and gives the guest an address.
	Tools bool

	// TLS serves https with a self-signed certificate.
	TLS bool
	// User and Password are the only login accepted, for files below /folder too. An empty User is "user", and an empty Password is a random
	// one, which Sim.URL has.
	User, Password string
	// Certificates are the extensions and solution users that may log in with a certificate, by extension key or user name.
	Certificates map[string]*x509.Certificate
	// SessionTTL ends a session that made no call for that long; zero means never.
	SessionTTL time.Duration

	// TaskDelay is the time that every task takes. [Sim.SetTaskDelay] sets it for one kind of task. With [Immediate], tasks have ended when the call
	// that starts them returns.
	TaskDelay time.Duration
	// RoundTrip is added to every request, like the network between client and server.
	RoundTrip time.Duration
}

func orDefault(n, def int) int {
	switch {
	case n < 0:
		return 0
	case n == 0:
		return def
	}
	return n
}

func (c Config) withDefaults() Config {
	if c.Version == "" {
		c.Version = "8.0"
	}
	c.Datacenters = orDefault(c.Datacenters, 1)
	c.Clusters = orDefault(c.Clusters, 1)
	c.HostsPerCluster = orDefault(c.HostsPerCluster, 3)
	c.Datastores = orDefault(c.Datastores, 2)
	c.HostCores = orDefault(c.HostCores, 16)
	if c.HostMemoryMB == 0 {
		c.HostMemoryMB = 131072
	}
	if c.Edition == "" {
		c.Edition = EnterprisePlus
	}
	if c.User == "" {
		c.User = "user"
	}
	if c.Password == "" {
		c.Password = rand.Text()
	}
	c.GPUs = append([]GPU(nil), c.GPUs...)
	for i := range c.GPUs {
		c.GPUs[i] = c.GPUs[i].withDefaults(i)
	}
	return c
}
