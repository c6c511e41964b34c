// Package xen is the driver for Xen through two toolstacks behind one API:
// XenServer and XCP-ng pools through XAPI, and plain Xen through libvirt.
//
// # XAPI
//
// The driver uses JSON-RPC on HTTPS, or XML-RPC where the server is too old
// for it:
//
//	c, err := hypervisor.Open(ctx, "xapi://root@pool.example/?ca=/etc/pool.pem", nil)
//	c, err := xen.Open(ctx, xen.Config{Host: "pool.example", Username: "root", Password: "…"}, nil)
//
// The form of URLs is xapi://user:password@host:port/?parameters;
// xenserver:// means the same. Any member of the pool may be named: the
// driver finds the coordinator (XAPI's messages call it the master), also
// after another member has become the coordinator. A parameter has the name of its [Config] field in
// lower case:
//
//	ca            file with PEM certificates of authorities, in place of the system's
//	thumbprint    SHA-256 or SHA-1 of the members' certificates, between commas, in place of authorities
//	insecure      true: certificates are not verified
//	maxanswer     bytes of the largest answer to read, 64 MiB if it is not given
//
// Options.Credentials are used first, then the Config's Username and Password
// or the URL's user info, then for a URL without a password the environment
// variable ANYVISOR_PASSWORD. A URL is trusted input, since it decides where
// the password is sent: accept none from others. There is no New, because Go
// has no common type for a session of XAPI.
//
// The account needs a role of the pool. root has all rights; other accounts
// exist where the pool is joined to Active Directory and its edition has
// role-based access:
//
//	Read Only         list, watch
//	VM Operator       start, stop
//	VM Admin          create, clone, templates, disks, adapters, labels
//	VM Power Admin    the above, snapshots, live migration, a choice of host
//	Pool Operator     the above, maintenance, host devices, high availability
//
// A call that lacks a right fails with ErrPermission.
//
// Machine, snapshot and template IDs are uuids of class VM. Host, datastore
// (SR), network, disk (VBD), image (VDI), adapter (VIF) and device (PCI) IDs
// are uuids of their classes. A task's ID is its reference. Labels and tokens
// are keys of VM.other_config with the prefix "anyvisor:". A linked clone is
// made with VM.clone, which shares a hidden base image that the storage
// manager keeps as long as it is needed, so deleting the source never harms
// it. A full clone is made with VM.copy. Work that takes several messages is
// shown in the pool as a task of its own, so that Client.Task finds it from
// other processes.
//
// These calls are composed of several messages: creating, cloning a running
// machine (through a snapshot that is removed), attaching a copy of an image,
// deleting with disks, and marking a template as a machine again. Deleting a snapshot
// waits, in the phase "merging", for the storage manager, which merges in its
// own time. Place and PlanBalance are composed where no Workload Balancing
// server is connected. The file docs/xapi.md lists the messages of each call.
//
// [hypervisor.As] returns a *[Session] for the Client, and a [Ref] for a VM,
// Template, Snapshot, Host, Datastore, Network, Volume, Disk, NIC, PCI device
// or Task of the pool.
//
// # Plain Xen
//
// The driver uses libvirt's libxl driver, with one or several hosts as one
// Client:
//
//	c, err := hypervisor.Open(ctx, "xen+ssh://root@h1,h2/system", nil)
//	c, err := xen.OpenLibxl(ctx, xen.LibxlConfig{Hosts: []string{"xen+ssh://root@h1/system"}}, nil)
//	c, err := xen.NewLibxl(ctx, []*libvirt.Connect{conn}, nil)
//
// URLs are libvirt's, with several hosts between commas:
//
//	xen:///system                  this machine
//	xen+unix:///system?socket=…    a socket; repeat socket for more hosts
//	xen+ssh://root@h1,h2/system    two hosts over SSH; tls and tcp likewise
//	xen://h1,h2/system             libvirt's default transport, TLS
//
// Their parameters are insecure (true: neither certificates nor host keys are
// verified) and those of libvirt's client library except no_verify: auth,
// command, keyfile, known_hosts, known_hosts_verify, mode, name, netcat,
// no_sanity, no_tty, pkipath, proxy, socket, sshauth, tls_priority. With ssh
// the user is never prompted (no_tty=1), unless no_tty is given.
//
// A libvirtd that asks for a user and password gets Options.Credentials, or
// else the LibxlConfig's Username and Password or the URL's user info, with
// ANYVISOR_PASSWORD for a URL without a password.
//
// The driver needs libvirt 7.0 or newer at both ends, and a build with cgo
// and libvirt's headers. Without cgo it fails as Unsupported with
// ReasonBuild. The account needs full access to libvirt's system instance:
// root, or over SSH the user root with a key. libvirt has no lesser role that
// is enough.
//
// IDs are the UUID of the domain (machines, templates), of the storage pool
// (datastores) and of the host, or the host's URI as long as it has never
// answered. A volume's ID is its pool's UUID, a slash and its name. Networks
// are network:NAME and bridge:NAME. A disk's ID is its target device ("xvda"),
// an adapter's its MAC address.
//
// A machine is a persistent domain. Domain-0 is not a machine. VMSpec.Machine is "pvh" (the default with Boot), "pv" or
// "hvm" (the default without). A PVH machine needs Boot. A PV machine without
// Boot is started by pygrub from its disk. A datastore is a storage pool, and
// pools with the same UUID on several hosts are one shared datastore. Labels
// and the token are in the domain's metadata.
//
// libvirt's Xen driver has no bulk statistics, so a listing takes three
// requests for a host and one for each machine (two if it runs). Full adds
// the storage pools and one look-up for each disk.
//
// A template is a domain whose definition can't start: it has an adapter on
// the network "anyvisor-template", which nobody defines, and 1 KiB of memory.
// xl does not know definitions, so it can't start one either.
//
// Suspend is libvirt's managed save. Reset is composed: the domain is
// destroyed and created again. Rename is composed too: the definition is
// removed and made again under the new name, so that watchers of other
// processes see a deletion and a creation. There are no snapshots: libvirt's
// Xen driver has none, it restores saved RAM only onto the disks with which
// it was saved, and it merges no disks.
//
// A running PVH or HVM machine migrates live. A PV machine migrates live only
// where Xen has shadow paging, which Debian's build lacks and libvirt does
// not report. MigrateModeLive is refused for a PV machine, and
// MigrateModeAuto moves it with its RAM while it stands still. The host
// copies the disks of a machine that is off to another of its datastores.
//
// Host devices can be given to PV and HVM machines that are off. Xen has no
// passthrough for PVH, and needs an IOMMU for the others, which libvirt does
// not report. The control domain needs the module xen-pciback, and udevd:
// without udevd, libvirt 9.0 was seen to lose a device that PrepareDevice
// took.
//
// [hypervisor.As] returns *libvirt.Connect for a Client of one host and for a
// Host, *libvirt.Domain for a VM or Template, *libvirt.StoragePool for a
// Datastore, *libvirt.StorageVol for a Volume and *libvirt.Network for one of
// libvirt's networks. Call Free on all of them except the connection.
//
// # Files
//
//	open.go native.go capability.go errors.go    Config, URLs, As and Session, what is supported
//	vm.go inventory.go fetch.go record.go        reading machines and the pool's records
//	create.go delete.go reconfigure.go power.go
//	disk.go network.go                           disks and adapters of machines
//	snapshot.go merge.go                         snapshots, and how their images are merged
//	clone.go copy.go template.go provision.go    copies of machines, disks of templates
//	dependencies.go storage.go                   backing chains of images; datastores, networks, volumes
//	migrate.go migrate_check.go                  moves and their blockers
//	device.go device_attach.go pci.go            host devices and giving them to machines
//	host.go placement.go availability.go         hosts, Workload Balancing, HA
//	guest.go event.go version.go unseen.go       guest tools, changes, versions, unseen machines
//	task.go job.go token.go lost.go              tasks, composed work, tokens, lost answers
//	libxl.go libxl_cgo.go internal/libxl         plain Xen; what it shares with KVM is in internal/libvirtx
package xen
