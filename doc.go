// Package anyvisor is the root of a library that runs virtual machines on
// VMware vSphere, Microsoft Hyper-V, Xen and KVM through one API. The API
// itself is in package hypervisor.
package anyvisor
