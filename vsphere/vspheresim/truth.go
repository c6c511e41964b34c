package vspheresim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The truth behind the API. A disk file has content of its own once something was written to it; until then it shows the content of its parent. API
// reference: VirtualDiskFlatVer2BackingInfo.parent, "The parent of the virtual disk file, if this is a delta disk file"; VMware Virtual Disk Format
// 5.0, "delta links": reads that a link cannot serve go to its parent, writes go to the last link. The content is one string for the whole disk,
// which a file therefore has as a whole or not at all.

// WriteDisk writes what a guest would: the content of disk n (0 is the first) of a machine goes to the file that the machine writes. The
// machine is named by its inventory name or by the value of its reference ("vm-42"). It fails for a machine that is suspended, where no
// guest runs and the files are in use, and for a disk that is no file. Non-persistent disks are written as persistent ones.
func (s *Sim) WriteDisk(vm string, n int, content string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, d, err := s.diskNumber(vm, n)
	if err != nil {
		return err
	}
	if m.Runtime.PowerState == suspended {
		return fmt.Errorf("vspheresim: write to a disk of %q: the machine is suspended", vm)
	}
	s.blocks[keysOf(d)[0]] = content
	// API reference: VirtualDiskFlatVer2BackingInfo.contentId "indicates the logical contents of the disk backing".
	s.mutate(s.newContext(), m, func() {
		devices := clone(m.Config.Hardware.Device)
		for _, x := range disksOf(devices) {
			if b := fileBacking(x); b != nil && x.Key == d.Key {
				b.ContentId = newContentID()
			}
		}
		m.Config.Hardware.Device = devices
	})
	return nil
}

// ReadDisk is the content of disk n (0 is the first) of a machine; empty if nothing was ever written. The machine is named as for
// [Sim.WriteDisk].
func (s *Sim) ReadDisk(vm string, n int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, d, err := s.diskNumber(vm, n)
	if err != nil {
		return "", err
	}
	content, _ := s.contentOf(keysOf(d))
	return content, nil
}

// Memory returns the content of the RAM of a machine that runs or is suspended. Each boot (power-on, reset, restart of the guest) begins with "boot "
// and an identifier that no other boot has. The content is kept where the API reference lets the machine continue: in SuspendVM_Task and the power-on
// after it, in a snapshot with memory and the revert to it, in a migration, in an instant clone. It fails for a machine that is off. The machine is
// named as for [Sim.WriteDisk].
func (s *Sim) Memory(vm string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.machine(vm)
	if err != nil {
		return "", err
	}
	if m.Runtime.PowerState == poweredOff {
		return "", fmt.Errorf("vspheresim: memory of %q: the machine is off", vm)
	}
	return s.stateOf(m.Self).memory, nil
}

// SetMemory writes the RAM like a program in a guest. It fails for a machine that does not run. The machine is named as for [Sim.WriteDisk].
func (s *Sim) SetMemory(vm, data string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.machine(vm)
	if err != nil {
		return err
	}
	if m.Runtime.PowerState != poweredOn {
		return fmt.Errorf("vspheresim: memory of %q: the machine is %s", vm, m.Runtime.PowerState)
	}
	s.stateOf(m.Self).memory = data
	return nil
}

// PowerState returns the power state of a machine, which is named as for [Sim.WriteDisk].
func (s *Sim) PowerState(vm string) (types.VirtualMachinePowerState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.machine(vm)
	if err != nil {
		return "", err
	}
	return m.Runtime.PowerState, nil
}

// machine finds a machine by its name or the value of its reference.
func (s *Sim) machine(name string) (*simulator.VirtualMachine, error) {
	if vm := s.vm(ref{Type: "VirtualMachine", Value: name}); vm != nil {
		return vm, nil
	}
	var found *simulator.VirtualMachine
	for _, vm := range s.allVMs() {
		switch {
		case vm.Name != name:
		case found != nil:
			return nil, fmt.Errorf("vspheresim: more than one machine is named %q", name)
		default:
			found = vm
		}
	}
	if found == nil {
		return nil, fmt.Errorf("vspheresim: no machine named %q", name)
	}
	return found, nil
}

func (s *Sim) diskNumber(name string, n int) (*simulator.VirtualMachine, *types.VirtualDisk, error) {
	vm, err := s.machine(name)
	if err != nil {
		return nil, nil, err
	}
	disks := disksOf(vm.Config.Hardware.Device)
	if n < 0 || n >= len(disks) {
		return nil, nil, fmt.Errorf("vspheresim: %q has %d disks, no disk %d", name, len(disks), n)
	}
	if len(chainOf(disks[n])) == 0 {
		return nil, nil, fmt.Errorf("vspheresim: disk %d of %q is no file", n, name)
	}
	return vm, disks[n], nil
}

// contentOf returns the content that a chain of files shows, given the file that is written first. It returns false if nothing was written to any of
// them.
func (s *Sim) contentOf(chain []string) (string, bool) {
	for _, f := range chain {
		if c, ok := s.blocks[f]; ok {
			return c, true
		}
	}
	return "", false
}

// chainOfFile returns a disk file and those below it.
func (s *Sim) chainOfFile(file string) []string {
	cut := func(chain []string) []string {
		if i := slices.Index(chain, file); i >= 0 {
			return chain[i:]
		}
		return nil
	}
	if l, ok := s.loose[file]; ok {
		return keysOf(&types.VirtualDisk{VirtualDevice: types.VirtualDevice{Backing: l.backing}})
	}
	for _, vm := range s.allVMs() {
		for _, c := range s.configsOf(vm) {
			for _, d := range disksOf(c.Hardware.Device) {
				if chain := cut(keysOf(d)); chain != nil {
					return chain
				}
			}
		}
	}
	return []string{file}
}

// fill copies the content that a chain shows, which may be that of another simulator, to a new file.
func (s *Sim) fill(file string, from *Sim, chain []string) {
	c, ok := from.contentOf(chain)
	delete(s.blocks, file)
	if ok {
		s.blocks[file] = c
	}
}

// wipe forgets the content of a file, or of all files below a folder.
func (s *Sim) wipe(name string) {
	below := strings.TrimSuffix(name, "/") + "/"
	for f := range s.blocks {
		if f == name || strings.HasPrefix(f, below) {
			delete(s.blocks, f)
		}
	}
}

// freshMemory is the RAM of a machine that has just begun to boot.
func freshMemory() string { return "boot " + uuid.NewString() }

// settleMemory changes the RAM with the power state. API reference: PowerOnVM_Task of a suspended machine resumes it, "If the virtual
// machine is suspended, this method resumes execution from the suspend point".
func (st *vmState) settleMemory(from, to types.VirtualMachinePowerState) {
	switch {
	case to == poweredOff:
		st.memory = ""
	case to == poweredOn && from != suspended:
		st.memory = freshMemory()
	}
}

// Customization returns the specification with which a machine's guest was customized, at the next power-on after it, or nil if it was not. The
// machine is named as for [Sim.WriteDisk].
func (s *Sim) Customization(vm string) (*types.CustomizationSpec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.machine(vm)
	if err != nil {
		return nil, err
	}
	return s.stateOf(m.Self).told, nil
}
