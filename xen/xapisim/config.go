package xapisim

import (
	"crypto/rand"
	"slices"
	"time"
)

// Config describes the pool to make. The zero value is one host called host1 with a shared and a local SR, an ISO SR, one network and two
// templates.
type Config struct {
	Hosts    int    // number of hosts, 1 by default
	User     string // root by default
	Password string // a random one by default, which Sim.Password returns

	// Edition is host.edition, "xcp-ng" by default. Restrictions are the restrict_* flags without the prefix that are true for
	// it ("vgpu", "storage_xen_motion"); the others are false. "xha" makes enable_xha false.
	Edition      string
	Restrictions []string

	MemoryPerHost int64 // bytes, 64 GiB by default
	CPUsPerHost   int   // 16 by default
	StrictPCPUs   bool  // refuse VMs with more vCPUs than the host has CPUs
	NoIOMMU       bool
	NoHVM         bool

	SharedSRs, LocalSRs int   // shared ones 1 by default, negative for none; local ones for each host 1 by default, negative for none
	SRSize              int64 // bytes, 1 TiB by default
	LocalType           string
	SharedType          string // "nfs" by default; "lvmoiscsi" reserves whole disks
	Networks            int    // 1 by default; all hosts have a PIF on each
	GPUs                []GPU  // on each host
	SRIOVNetwork        bool   // give each host a PIF with virtual functions and a network on it

	NoGuestTools bool // guests have no drivers: no clean shutdown, no suspend, no migration

	// Durations is the time that messages take ("VM.clone": time.Second); "*" applies to all that do real work. Zero means no time.
	Durations map[string]time.Duration
	// GCPause is the time between a VDI.destroy and the start of the SR's garbage collector, 50 ms by default; a real one waits 5 minutes.
	// Negative means no pause.
	GCPause time.Duration
	// CopyCleanup is the time for which the image of a cancelled copy stays, 20 ms by default; with a real one 0.2 to 1.5 s. Of a pool of several
	// hosts, every LostCopies-th such image stays for good, every third by default; negative for none.
	CopyCleanup time.Duration
	LostCopies  int
	// LateCopies lets the sub-task of a copy that is cancelled end with success all the same, when CopyCleanup has passed. Its image stays.
	LateCopies bool
	// EventLog is the number of deletions that event.from remembers of each class, up to twice as many for a while; 256 by default. Older
	// ones are not reported, and there is no error for it (recorded from a xapi 24.11).
	EventLog int

	// Build is the version of xapi, host.software_version:xapi_build, "26.17.0" by default. What was added to XAPI later is missing.
	// "none" is a server that doesn't report its version, and lacks all of them.
	Build string
	// Lacks names further parameters that this server is too old for ("VM.snapshot.ignore_vdis"): calls with them have too many.
	Lacks []string
	// NoJSONRPC makes a server that supports only XML-RPC, like XenServer 6.x: /jsonrpc is not found.
	NoJSONRPC bool

	// APIMajor and APIMinor are host.API_version, by default the one of Build. MaxHardwareVersion is the highest virtual hardware of the hosts, 2 by
	// default.
	APIMajor, APIMinor int64
	MaxHardwareVersion int64
	ProductVersion     string // "8.4.0" by default
}

func (c Config) withDefaults() Config {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	num := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
		*p = max(*p, 0)
	}
	num64 := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	num(&c.Hosts, 1)
	def(&c.User, "root")
	def(&c.Password, rand.Text())
	def(&c.Edition, "xcp-ng")
	num64(&c.MemoryPerHost, 64<<30)
	num(&c.CPUsPerHost, 16)
	num(&c.SharedSRs, 1)
	num(&c.LocalSRs, 1)
	num64(&c.SRSize, 1<<40)
	def(&c.LocalType, "ext")
	def(&c.SharedType, "nfs")
	num(&c.Networks, 1)
	num(&c.EventLog, 256)
	if c.GCPause == 0 {
		c.GCPause = 50 * time.Millisecond
	}
	if c.CopyCleanup == 0 {
		c.CopyCleanup = 20 * time.Millisecond
	}
	num(&c.LostCopies, 3)
	num64(&c.APIMajor, 2)
	num64(&c.MaxHardwareVersion, 2)
	def(&c.ProductVersion, "8.4.0")
	def(&c.Build, "26.17.0")
	num64(&c.APIMinor, apiMinor(c.Build))
	c.Lacks = append(slices.Clone(c.Lacks), missing(c.Build)...)
	return c
}
