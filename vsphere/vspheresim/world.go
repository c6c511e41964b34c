package vspheresim

import (
	"fmt"
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type ref = types.ManagedObjectReference

// vmState is what the simulator knows about a machine and the API does not show as a property.
type vmState struct {
	guest      Guest
	processes  []*guestProcess // programs that StartProgramInGuest started
	nextPID    int64
	snapshots  int32 // the number of the last snapshot
	memory     string
	saved      map[int32]string // the memory in snapshots, by their number
	customize  *types.CustomizationSpec
	customized struct{ hostName, ip string }
	told       *types.CustomizationSpec // the specification that was applied last
}

func (s *Sim) content() types.ServiceContent {
	return s.model.Service.Context.Map.Get(ref{Type: "ServiceInstance", Value: "ServiceInstance"}).(*simulator.ServiceInstance).Content
}

func (s *Sim) vm(r ref) *simulator.VirtualMachine {
	vm, _ := s.registry().Get(r).(*simulator.VirtualMachine)
	return vm
}

func (s *Sim) host(r ref) *simulator.HostSystem {
	h, _ := s.registry().Get(r).(*simulator.HostSystem)
	return h
}

func (s *Sim) datastore(r ref) *simulator.Datastore {
	d, _ := s.registry().Get(r).(*simulator.Datastore)
	return d
}

func (s *Sim) stateOf(r ref) *vmState {
	st := s.vms[r]
	if st == nil {
		st = &vmState{guest: Guest{Tools: s.cfg.Tools}, nextPID: 1000}
		s.vms[r] = st
	}
	return st
}

// allVMs is every machine and template whose configuration is known.
func (s *Sim) allVMs() []*simulator.VirtualMachine {
	var out []*simulator.VirtualMachine
	for _, e := range s.registry().All("VirtualMachine") {
		if vm, ok := e.(*simulator.VirtualMachine); ok && vm.Config != nil {
			out = append(out, vm)
		}
	}
	return out
}

func (s *Sim) allHosts() []*simulator.HostSystem {
	var out []*simulator.HostSystem
	for _, e := range s.registry().All("HostSystem") {
		if h, ok := e.(*simulator.HostSystem); ok {
			out = append(out, h)
		}
	}
	return out
}

// entityName reads the name of an entity under its lock.
func (s *Sim) entityName(ctx *simulator.Context, e mo.Entity) (name string) {
	s.lock(ctx, e, func() {
		switch x := e.(type) {
		case *mo.Network:
			name = x.Name
		case *simulator.DistributedVirtualPortgroup:
			name = x.Name
		case *simulator.DistributedVirtualSwitch:
			name = x.Name
		case *mo.OpaqueNetwork:
			name = x.Name
		default:
			name = e.Entity().Name
		}
	})
	return name
}

// parentOf walks up from an entity to one of a type; nil if there is none.
func (s *Sim) parentOf(e mo.Entity, kind string) mo.Entity {
	for e != nil {
		if e.Reference().Type == kind {
			return e
		}
		p := e.Entity().Parent
		if vm, ok := e.(*simulator.VirtualMachine); ok && p == nil {
			p = vm.ParentVApp // API reference: VirtualMachine.parentVApp, "In this case, the parent is unset"
		}
		if p == nil {
			return nil
		}
		e, _ = s.registry().Get(*p).(mo.Entity)
	}
	return nil
}

func (s *Sim) datacenterOf(e mo.Entity) *simulator.Datacenter {
	dc, _ := s.parentOf(e, "Datacenter").(*simulator.Datacenter)
	return dc
}

// compute is what a cluster and the wrapper of a stand-alone host have in common.
func (s *Sim) compute(r ref) *mo.ComputeResource {
	switch c := s.registry().Get(r).(type) {
	case *simulator.ClusterComputeResource:
		return &c.ComputeResource
	case *mo.ComputeResource:
		return c
	}
	return nil
}

func (s *Sim) computeOfHost(h *simulator.HostSystem) *mo.ComputeResource {
	if h == nil || h.Parent == nil {
		return nil
	}
	return s.compute(*h.Parent)
}

// poolOwner is the cluster or stand-alone host that a resource pool or vApp belongs to.
func (s *Sim) poolOwner(r ref) *mo.ComputeResource {
	switch p := s.registry().Get(r).(type) {
	case *simulator.ResourcePool:
		return s.compute(p.Owner)
	case *simulator.VirtualApp:
		return s.compute(p.Owner)
	}
	return nil
}

// poolVMs is the list of machines of a resource pool or vApp.
func (s *Sim) poolVMs(r ref) (mo.Reference, *[]ref) {
	switch p := s.registry().Get(r).(type) {
	case *simulator.ResourcePool:
		return p, &p.Vm
	case *simulator.VirtualApp:
		return p, &p.Vm
	}
	return nil, nil
}

// folderOf is the folder of a machine; none for a machine of a vApp.
func folderOf(vm *simulator.VirtualMachine) ref {
	if vm.Parent == nil {
		return ref{}
	}
	return *vm.Parent
}

func (s *Sim) folder(r ref) *mo.Folder {
	switch f := s.registry().Get(r).(type) {
	case *simulator.Folder:
		return &f.Folder
	case *simulator.StoragePod:
		return &f.Folder
	}
	return nil
}

func has(list []ref, r ref) bool {
	for _, x := range list {
		if x == r {
			return true
		}
	}
	return false
}

func without(list []ref, r ref) []ref {
	out := make([]ref, 0, len(list))
	for _, x := range list {
		if x != r {
			out = append(out, x)
		}
	}
	return out
}

// setList changes a list of references of an object, and reports it to those who watch the property.
func (s *Sim) setList(ctx *simulator.Context, obj mo.Reference, property string, list []ref) {
	s.lock(ctx, obj, func() {
		ctx.Update(obj, []types.PropertyChange{{Name: property, Val: list}})
	})
}

// dsPath is a datastore path in its two parts.
func dsPath(p string) object.DatastorePath {
	var d object.DatastorePath
	d.FromString(p)
	return d
}

func dsJoin(datastore string, elem ...string) string {
	d := object.DatastorePath{Datastore: datastore, Path: path.Join(elem...)}
	return d.String()
}

// vmDir is the folder that the files of a machine are in, as a datastore path.
func vmDir(vm *mo.VirtualMachine) object.DatastorePath {
	d := dsPath(vm.Config.Files.VmPathName)
	if strings.HasSuffix(d.Path, ".vmx") {
		d.Path = path.Dir(d.Path)
	}
	return d
}

// datastoreByName finds a datastore among those that a host sees.
func (s *Sim) datastoreByName(h *simulator.HostSystem, name string) *simulator.Datastore {
	for _, r := range h.Datastore {
		if d := s.datastore(r); d != nil && d.Name == name {
			return d
		}
	}
	return nil
}

// escapeName escapes a name as vCenter stores it. API reference: ManagedEntity.name, "Any % (percent)
// character used in this name parameter must be escaped, unless it is used to start an escape sequence.
// Clients may also escape any other characters in this name parameter"; / and \ are escaped by the server.
func escapeName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '/' || c == '\\':
			fmt.Fprintf(&b, "%%%02x", c)
		case c == '%' && !isEscape(name[i:]):
			b.WriteString("%25")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// plainName undoes escapeName.
func plainName(name string) string {
	return strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%").Replace(name)
}

func isEscape(s string) bool {
	hex := func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
	}
	return len(s) >= 3 && s[0] == '%' && hex(s[1]) && hex(s[2])
}
