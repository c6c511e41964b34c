// Package vsphere is the driver for VMware vSphere: vCenter Server and
// stand-alone ESXi hosts, through govmomi's SOAP client.
//
//	c, err := hypervisor.Open(ctx, "vsphere://administrator%40vsphere.local@vcenter.example/?datacenter=DC0", nil)
//	c, err := vsphere.Open(ctx, vsphere.Config{Host: "vcenter.example", Username: "…", Password: "…"}, nil)
//	c, err := vsphere.New(ctx, govmomiClient, nil)
//
// # URLs
//
// The form is vsphere://user:password@host:port/path?parameters. The path is
// /sdk if there is none. A parameter has the name of its [Config] field in
// lower case:
//
//	datacenter     name or path; limits the Client to one datacenter
//	ca             file with PEM certificates of authorities, in place of the system's
//	thumbprint     SHA-256 or SHA-1 of the server's certificate, in place of authorities
//	insecure       true: the certificate is not verified
//	plainhttp      true: no TLS, for simulators
//	keepalive      duration between the calls of an idle session; negative: none
//	maxanswer      bytes of the largest answer to read, 64 MiB if it isn't given
//	token          file with a SAML token
//	certificate    PEM file, with key: logs in by certificate
//	key            PEM file
//	extensionkey   with certificate and key: logs in as this extension
//
// # Logging in
//
// Options.Credentials are used first, then the Config's Username and Password
// or the URL's user info, then for a URL without a password the environment
// variable ANYVISOR_PASSWORD. If there is a token, a certificate or an
// extension key, it is used to log in instead. User and password then serve
// moves from another vCenter, which logs in by itself.
//
// A URL is trusted input: it names a host, and files of this machine that
// determine who logs in there. Accept none from others. A file with the wrong
// content is refused before anything is sent.
//
// # Rights
//
// The account needs a role with these privileges at the datacenter, with
// propagation, and System.Read at the top of the inventory. VM stands for
// VirtualMachine:
//
//	list, watch, check      System.Read
//	create                  VM.Inventory.Create; VM.Config.AddNewDisk, AddExistingDisk, AddRemoveDevice,
//	                        AdvancedConfig; Resource.AssignVMToPool; Datastore.AllocateSpace; Network.Assign
//	labels, tokens          VM.Config.AdvancedConfig
//	change                  VM.Config.CPUCount, Memory, Resource, Rename, Annotation, Settings, EditDevice,
//	                        DiskExtend, RemoveDisk
//	delete                  VM.Inventory.Delete, Unregister
//	power                   VM.Interact.PowerOn, PowerOff, Reset, Suspend
//	snapshots               VM.State.CreateSnapshot, RemoveSnapshot, RevertToSnapshot
//	clone, deploy           those of create; VM.Inventory.CreateFromExisting; VM.Provisioning.Clone,
//	                        CloneTemplate, DeployTemplate, Customize
//	templates               VM.Provisioning.MarkAsTemplate, MarkAsVM, and those of snapshots
//	migrate                 Resource.HotMigrate, ColdMigrate, AssignVMToPool; Datastore.AllocateSpace; Network.Assign
//	volumes                 Datastore.Browse, FileManagement
//	programs in guests      VM.GuestOperations.Query, Execute, Modify, and a login of the guest
//	maintenance, devices    Host.Config.Maintenance, PciPassthru
//	restart priorities      Host.Inventory.EditCluster
//	cancel others' tasks    Global.CancelTask
//
// A call that lacks a privilege fails with ErrPermission, and errors.As finds
// vSphere's own fault in it.
//
// # IDs
//
// The ID of a machine, host, datastore, network, pool, snapshot or task is
// the value of its managed object reference ("vm-42", "host-21"). Every call
// accepts this value directly, so no look-up comes before a call, and it
// stays the same while the object is in the inventory of this vCenter. A
// machine that moves to another vCenter gets a new one. The IDs of disks,
// adapters and attached devices are device keys of their machine. The ID of a
// volume is its datastore's ID, a slash and the path inside
// ("datastore-12/web-01/web-01.vmdk"). That of a host device is its host's
// ID, a slash and the PCI address.
//
// Labels and tokens are kept in the machine's extraConfig under
// "anyvisor.labels" and "anyvisor.token": ESXi has no custom attributes, and
// single keys of extraConfig can be read in the call that lists machines. The
// instance UUID of a machine that was made with a token is derived from the
// token; for an instant clone it is the BIOS UUID. A copy inherits the token
// and not the UUID, so it is not mistaken for the machine.
//
// # Versions
//
// The driver supports vCenter and ESXi 6.5 and later, and Open refuses an
// older one. What a version lacks is left empty (VMInfo.CreatedAt before 6.7)
// or refused (instant clones before 6.7).
//
// # What is composed
//
// Most calls are one task of the server, which continues without this program
// and which Client.Task finds from other processes. The following take several
// tasks. This program starts one after the other, so it must run until the
// last one has ended:
//
//	create             a task for each copied image, and one for the start
//	linked clone       of a machine's present state: a snapshot is made first. It stays as the
//	                   base, and is removed with the last clone that depends on it
//	delete             of a running machine, or with KeepDisks: power off, merge, detach, delete
//	Host.Evacuate      a migration for each machine; EnterMaintenance is vSphere's own way
//
// DynamicMemory is a reservation and the configured size, between which ESXi
// balloons. Without DRS, Place ranks the hosts as [hypervisor.Client.Place]
// describes.
//
// A stand-alone ESXi host has no clones, templates and migrations: they are
// refused as Unsupported with ReasonPlatform. vSphere has no paused state, no
// kernel boot and no post-copy migration.
//
// # Templates
//
// A snapshot of the template is the base of its linked clones. MarkTemplate
// makes it, and MarkVM removes it. The first linked deployment from a
// template that other programs made also makes one. For this, the template is
// a machine for a moment, with a mark in its notes or under "anyvisor.base",
// which other Clients wait for. If a program dies in between, the template is
// still listed as one and can't be started, and the next deployment,
// MarkTemplate or MarkVM continues the work after a minute in which nothing
// happened to the template.
//
// # Native objects
//
// [hypervisor.As] returns these objects, after one call that finds out
// whether the object exists:
//
//	Client              *govmomi.Client, *vim25.Client (without a call)
//	VM, Template        *object.VirtualMachine
//	Host                *object.HostSystem
//	Datastore           *object.Datastore
//	Network             *object.Network, *object.DistributedVirtualPortgroup or *object.OpaqueNetwork, by its kind
//	Task                *object.Task, unless this package composes the work
//	all of them, Snapshot, Pool    *types.ManagedObjectReference
//
// # Files
//
//	open.go login.go session.go certificate.go    Config, URLs, logging in, renewal of sessions
//	driver.go native.go capability.go             the driver itself, As, what is supported
//	inventory.go vm.go page.go ref.go label.go    reading machines, IDs, labels
//	path.go token.go version.go                   paths for one call, tokens, what a version of the API has
//	create.go builder.go placement.go             new machines, their devices, where they go
//	reconfigure.go disk.go network.go power.go delete.go
//	snapshot.go clone.go customize.go
//	template.go deploy.go base.go basemaker.go    templates, and the snapshots that linked clones depend on
//	dependencies.go owner.go storage.go           backing chains of images; volumes
//	migrate.go migrate_cross.go                   moves, also to another vCenter
//	device.go device_attach.go                    host devices and giving them to machines
//	host.go maintain.go drs.go availability.go    hosts, maintenance, DRS, HA
//	guest.go exec.go event.go                     guest agents, programs in guests, events
//	task.go lost.go errors.go                     tasks, lost answers, classes of errors
package vsphere
