// Package kvm is the driver for QEMU/KVM machines through libvirt.
//
//	import _ "github.com/anyvisor/anyvisor/kvm"
//
//	c, err := hypervisor.Open(ctx, "kvm:///system", nil)
//	c, err := kvm.Open(ctx, kvm.Config{Hosts: []string{"qemu+ssh://root@h1/system"}}, nil)
//	c, err := kvm.New(ctx, []*libvirt.Connect{conn}, nil)
//
// # URLs
//
// URLs are libvirt's with kvm in place of qemu. They may name several hosts,
// which are then one [hypervisor.Client]:
//
//	kvm:///system                         this machine
//	kvm+unix:///system?socket=/run/x      a socket; repeat socket for more hosts
//	kvm+ssh://root@h1,h2/system           two hosts over SSH; tls and tcp likewise
//	kvm://h1,h2/system                    libvirt's default transport, TLS
//	kvm+test:///default                   libvirt's built-in test driver
//
// The driver's own parameters have the names of their [Config] fields in
// lower case, and insecure is the same in all drivers:
//
//	domaintype      kvm or qemu
//	seriallogdir    folder on the hosts for logs of serial consoles
//	insecure        true: neither certificates (tls) nor host keys (ssh) are verified
//
// The parameters of libvirt's client library, except no_verify, are passed on
// to it: auth, command, keyfile, known_hosts, known_hosts_verify, mode, name,
// netcat, no_sanity, no_tty, pkipath (a folder with certificates, keys and
// authorities), proxy, socket, sshauth, tls_priority. With ssh the user is
// never prompted (no_tty=1), unless no_tty is given.
//
// A libvirtd that asks for a user and password gets Options.Credentials, or
// else the Config's Username and Password or the URL's user info, with the
// environment variable ANYVISOR_PASSWORD for a URL without a password. A URL
// is trusted input: it names hosts, files of this machine and, with command,
// a program that is run. Accept none from others.
//
// The driver needs libvirt 7.0 or newer at both ends, and a build with cgo
// and libvirt's headers. Without cgo, Open fails as Unsupported with
// ReasonBuild.
//
// # Rights
//
// The account needs full access to libvirt's system instance on each host:
// root, or a user in the group libvirt. libvirt has no lesser role that is
// enough. Whoever has this access can do on the host what root can. Over SSH
// it is the user of the URL who needs it, with a key that asks for no
// passphrase.
//
// # IDs
//
//	machine, template    UUID of the domain
//	host                 UUID that libvirt reports; the URI of a host that has never answered
//	datastore            UUID of the storage pool
//	volume               UUID of its pool, a slash, and its name
//	network              network:NAME for libvirt's, bridge:NAME for a host's, user for QEMU's NAT
//	disk, adapter        target device ("vda"), MAC address
//	snapshot             its name, which libvirt wants unique in its machine
//	device               ID of its host, a slash, and libvirt's name ("pci_0000_81_00_0")
//
// # How things are done
//
// A machine is a persistent domain. A datastore is a storage pool, and pools
// with the same UUID on several hosts are one shared datastore. The names of images that the driver makes begin with
// their machine's UUID. Labels and the token are in the domain's metadata.
//
// A template is a domain whose definition can't start: it has an adapter on
// the network "anyvisor-template", which nobody defines, and 1 KiB of memory.
// virsh start fails with "no network with matching name 'anyvisor-template'".
// The adapter is part of the definition, so it is still there after a restart
// of libvirtd and applies to every tool. The memory is in libvirt's bulk
// statistics, so a listing can distinguish templates from machines without
// reading each definition.
//
// Snapshots are external: the image of that moment is frozen and the machine
// continues in an overlay. So a snapshot can back a linked clone, and a
// revert never writes to an image that backs another one. A revert is
// composed of new overlays and a new definition, because libvirt before 9.9
// refuses to revert to external snapshots. Deleting a snapshot commits the
// overlay into its base. Internal snapshots that others made are listed,
// reverted to and deleted through libvirt as long as nothing depends on their
// image.
//
// A clone is composed of copied or new images and a changed copy of the
// source's definition. The source gets overlays where its images must stay as
// they are: for a linked clone, and while it runs. A full clone merges them
// back. Place, PlanBalance and Host.Evacuate are composed in this program.
// libvirt has no maintenance mode, high availability or replication, and
// QEMU no instant clones: these are refused as Unsupported.
//
// While the driver works on a machine's disks, the host has a second domain
// named "anyvisor-helper-lease-" and the machine's UUID, which no listing of
// the driver shows. This lease keeps other programs that use this library
// away: they wait for short work, and return ErrBusy during work that takes
// longer. A lease that stays because its program was killed is taken over
// after 15 seconds.
//
// Machines that other tools made are treated like the driver's own. What the
// driver does not understand, it names. A disk on a network, or a shared one,
// prevents a snapshot, a clone and a move of disks. DeleteDisks leaves images
// that are in no storage pool, and notes list them. A clone gets no device of
// the host, no fixed port of a display, and new firmware variables.
//
// A device is given to a machine through VFIO, with the other functions of
// its card that share its IOMMU group. A vGPU is a mediated device that is
// made for the machine and removed with it; that needs libvirt 7.8 and, on
// the host, its maker's driver and mdevctl. libvirt can't set the number of
// virtual functions: the driver writes it to the host's sysfs, which for
// hosts other than this one needs [Config].Sysfs.
//
// # Native objects
//
// [hypervisor.As] returns libvirt's objects. Call Free on all of them except
// the connection:
//
//	Client of one host, Host    *libvirt.Connect
//	VM, Template                *libvirt.Domain
//	Snapshot                    *libvirt.DomainSnapshot; ErrAmbiguous where several machines have one of this name
//	Datastore, Volume           *libvirt.StoragePool, *libvirt.StorageVol, of the first host that has it
//	Network                     *libvirt.Network for "network:NAME", of the first host that has it
//
// # Files
//
// The code that plain Xen shares is in internal/libvirtx (libvirt's calls)
// and its package fleet (hosts as one Client: machines, disks, networks,
// templates, storage, images, tasks, events, As). This package has QEMU's
// part:
//
//	open.go driver.go nocgo.go            Config, URLs, the driver, builds without cgo
//	capability.go vm.go host.go           what is supported, machines, hosts
//	create.go spec.go making.go           new machines and their definitions
//	reconfigure.go disk.go network.go power.go
//	snapshot.go revert.go merge.go clone.go chain.go
//	migrate.go migrate_check.go migrate_live.go migrate_storage.go migrate_outcome.go
//	device.go device_attach.go device_vgpu.go device_window.go sysfs.go
//	guest.go task.go                      the guest agent, tasks
package kvm
