package xapisim

import "time"

// Config says what pool to make. The zero value is one host called host1 with a shared and a local SR, an ISO SR, one network
// and two templates.
type Config struct {
	Hosts    int    // how many, 1 by default
	User     string // root by default
	Password string // "xapisim" by default

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

	// Durations says how long messages take ("VM.clone": time.Second); "*" stands for all that do real work. Zero is at once.
	Durations map[string]time.Duration
	EventLog  int // how many deletions event.from remembers, 10,000 by default; a token from before gets EVENTS_LOST

	// Lacks names parameters that this server is too old for ("VM.snapshot.ignore_vdis"): calls with them have too many.
	Lacks []string
	// NoJSONRPC is a server that knows only XML-RPC, as XenServer 6.x: /jsonrpc is not found.
	NoJSONRPC bool

	// APIMajor and APIMinor are host.API_version, 2.21 by default; MaxHardwareVersion is the virtual hardware that hosts know, 2 by default.
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
	def(&c.Password, "xapisim")
	def(&c.Edition, "xcp-ng")
	num64(&c.MemoryPerHost, 64<<30)
	num(&c.CPUsPerHost, 16)
	num(&c.SharedSRs, 1)
	num(&c.LocalSRs, 1)
	num64(&c.SRSize, 1<<40)
	def(&c.LocalType, "ext")
	def(&c.SharedType, "nfs")
	num(&c.Networks, 1)
	num(&c.EventLog, 10000)
	num64(&c.APIMajor, 2)
	num64(&c.APIMinor, 21)
	num64(&c.MaxHardwareVersion, 2)
	def(&c.ProductVersion, "8.4.0")
	return c
}
