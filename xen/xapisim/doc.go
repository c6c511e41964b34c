// Package xapisim is a simulated XenServer or XCP-ng pool. It serves XAPI's JSON-RPC and XML-RPC over HTTPS and behaves as described in the
// published data model and the xen-api sources, down to allowed_operations, the order of checks and the parameters of errors. Nothing runs
// behind it: no Xen, no disks. But a disk's content and a machine's memory have an identity, so that a test can see that a revert restored
// the old content.
//
//	sim, err := xapisim.Start(xapisim.Config{Hosts: 2})
//	defer sim.Close()
//	// connect to sim.URL() as sim.User() with sim.Password(), trusting sim.Thumbprint() or sim.CertPool()
//
// The example of [github.com/anyvisor/anyvisor/xen.Open] opens this module's driver on it.
//
// Each behaviour names its source in a comment beside it. What no source states is marked as believed.
package xapisim
