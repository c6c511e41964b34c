// Package hyperv is the driver for Microsoft Hyper-V through its WMI provider
// (namespace root\virtualization\v2), over WS-Management from any operating
// system or over COM from Windows. One Client may hold several hosts.
//
//	c, err := hypervisor.Open(ctx, "hyperv://Administrator@hv01,hv02/", nil)
//	c, err := hyperv.Open(ctx, hyperv.Config{Hosts: []string{"hv01", "hv02:5986"}, Username: "…", Password: "…"}, nil)
//
// There is no New, because Go has no type for a connection to WMI from which
// both transports could be made.
//
// # URLs
//
// The form is hyperv://user:password@host1,host2:port/?parameters, with a
// backslash in the user name written as %5C (CORP%5Cann). A parameter has the
// name of its [Config] field in lower case:
//
//	transport        wsman (the default: WS-Management) or com (on Windows; the host "." is this machine)
//	connections      per host, 4 if not given
//	pollfirst, polllast, eventinterval    durations between readings of jobs and of changes
//
// and for WS-Management alone:
//
//	auth             ntlm (the default), kerberos, basic or certificate
//	plainhttp        true: HTTP with sealed messages (port 5985) in place of HTTPS (5986); ntlm and kerberos only
//	ca               file with PEM certificates of authorities, in place of the system's
//	thumbprint       SHA-256 or SHA-1 of the hosts' certificates, between commas, in place of authorities
//	insecure         true: certificates are not verified
//	certificate, key    PEM files, for auth=certificate
//	kerberosconfig, realm, keytab, credentialcache    for auth=kerberos, see Config
//	maxenvelope      largest reply to ask for in bytes
//
// # Logging in
//
// Options.Credentials are used first, then the Config's Username and Password
// or the URL's user info, then for a URL without a password the environment
// variable ANYVISOR_PASSWORD. Kerberos also works without a password, with a
// key table or a ticket. COM to this machine uses the process's own user.
//
// A URL is trusted input: it names a host, and files of this machine that
// determine who logs in there. Accept none from others. A file with the wrong
// content is refused before anything is sent.
//
// # The host and its rights
//
// The driver supports Windows Server 2016 and later. On Windows 10 and 11,
// what only servers have is refused with ReasonEdition.
//
// A host needs WinRM for WS-Management. A fresh Windows server listens on
// HTTP, port 5985: use PlainHTTP, with which NTLM or Kerberos seal all
// messages. HTTPS, port 5986, needs a listener with a certificate (winrm
// quickconfig -transport:https). Open reports which of the two answers.
//
// The user must be in the groups "Hyper-V Administrators" and "Remote
// Management Users", or be an administrator. Without the second group WinRM
// refuses each request; without the first one the host shows nothing of
// Hyper-V. In both cases Open fails with ErrPermission. Removing image files,
// assigning devices and some facts about the host need a local administrator.
// Machines of a failover cluster also need full control of the cluster
// (Grant-ClusterAccess). A login that was refused is not tried again for 15
// minutes, so that the directory does not lock the account.
//
// # IDs
//
// A machine's ID is its GUID, a snapshot's is the GUID of its settings, and a
// host's ID is the name that Open was given for it. Disk images and
// datastores of a host's own drives are written "host|path". Those that
// several hosts reach (cluster shared volumes, SMB shares) are written as
// their path alone, in lower case: Windows does not distinguish letter case,
// and WMI writes one path in several ways. The folder of the shared volumes is
// the cluster's setting.
//
// Labels, tokens and template marks are kept as a line of JSON at the end of
// the machine's notes.
//
// # What is composed
//
// Many calls take several steps, some of which are jobs of the host. This
// program starts one after the other, so it must run until the last one has
// ended:
//
//	create         the machine, its images, disks and adapters. It is hidden until all exist
//	clone          export and import of the definition, with new images. A source in use is
//	               frozen by a checkpoint: a linked clone keeps it as its base, a full clone
//	               removes it and waits for the merge
//	template       a planned machine, which the host does not start, and a definition file
//	               beside it, from which machines are deployed
//	snapshot       a production checkpoint without RAM, a standard checkpoint with RAM
//	delete it      waits until the host has merged the images
//	Evacuate       a migration for each machine
//
// Watch compares readings of the hosts. Over COM an event of the host starts a
// reading, over WS-Management the EventInterval does. Place ranks the hosts as
// [hypervisor.Client.Place] describes.
//
// Hyper-V sets no facts inside guests and runs no programs in them, keeps no
// events, and has no maintenance mode and no scheduler: these are refused as
// Unsupported with ReasonPlatform.
//
// # Native objects
//
// [hypervisor.As] returns:
//
//	Client of one host, Host, VM, Template, Snapshot    *Session: queries and methods on that host
//	VM, Template, Snapshot                              Path: its WMI object
//
// A Session runs any WQL statement and any method on its host, over the
// Client's connection; see its example.
//
// # A real host
//
// TestRealHost runs the conformance suite on hosts that you name, changes
// nothing but machines that it makes, and logs answers to what is not known of
// real hosts:
//
//	ANYVISOR_HYPERV_URL=hyperv://… go test ./hyperv -run TestRealHost -v
//
// # Files
//
//	open.go advise.go driver.go native.go      Config, URLs, the hosts, As and Session
//	capability.go errors.go                    what is supported, classes of errors
//	inventory.go vm.go info.go notes.go        reading machines, labels, tokens
//	paths.go volume_id.go share.go             paths, IDs of images, files on shares
//	create.go delete.go reconfigure.go power.go
//	disk.go disk_attach.go physical.go         disks and their images, disks of the host
//	network.go                                 adapters
//	snapshot.go revert.go merge.go clone.go export.go template.go
//	dependencies.go storage.go                 backing chains of images; volumes
//	migrate.go migrate_reason.go               moves and their blockers
//	device.go gpu.go                           host devices, GPU partitions
//	host.go cluster.go availability.go replication.go    hosts, failover clusters, Replica
//	guest.go event.go                          guest services, changes
//	task.go task_make.go repeat.go lost.go     jobs, composed work, busy hosts, lost answers
package hyperv
