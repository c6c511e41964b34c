// Package hvsim simulates Hyper-V hosts for tests: the WMI classes of root\virtualization\v2 (with the necessary parts of
// root\cimv2 and root\MSCluster), their rules, jobs, checkpoints, disks, migration and devices, served over WS-Management like a
// real host's WinRM does. On Windows (and Wine) package comfacade serves the same hosts over COM.
//
//	sim, err := hvsim.Start(hvsim.Config{})
//	defer sim.Close()
//	url := sim.Host(0).URL() // https://127.0.0.1:…/wsman, user Administrator, password sim.Password()
//
// The example of [github.com/anyvisor/anyvisor/hyperv.Session] opens this module's driver on it.
//
// It refuses what Hyper-V refuses: unknown classes, properties, methods and parameters, wrong types, wrong states. A method that
// real hosts have and the simulator does not implement is refused with 0x80041055 (provider not capable), so that nobody mistakes
// silence for success. Not simulated are, among others: Replica (its state can be set), boot sources, resource pools,
// collections, Fibre Channel, thumbnails and WS-Eventing subscriptions.
//
// Logins are Basic, NTLM, client certificates and, with Config.Keytab, Kerberos against your own KDC.
//
// Time is the simulation's own: jobs end, guests boot and disks merge by Config.Clock, whenever somebody reads the state, and
// Sim.Advance moves the time forward. Sim.Inject makes calls, jobs and connections fail. Sim.Calls counts the calls.
// Host.ReadDisk, Host.Files, Sim.Memory and Sim.Machines return the true state behind the API.
//
// Sources. Comments name the source of a behaviour: [D] Microsoft's reference pages (page or class named), [G] the classes
// generated from real hosts in github.com/microsoft/wmi, [O] OpenStack os-win, [L] libvirt's Hyper-V driver, [X] txwinrm's
// recorded replies. "believed" or [M] marks what no available source states.
package hvsim
