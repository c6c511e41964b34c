package xapisim

// GPU is a graphics card to give to each host.
type GPU struct{ Model string }

var gpuHandlers = map[string]handler{}

func (s *Sim) buildGPUs() error                     { return nil }
func (s *Sim) bindGPUs(vm, host *object)            {}
func (s *Sim) unbindGPUs(vm *object)                {}
func (s *Sim) movableVGPU(ref string) bool          { return false }
func (s *Sim) sriovPCI(vm *object, ref string) bool { return false }
func (s *Sim) canHaveGPUs(vm, host *object) error   { return nil }
func (s *Sim) applyDom0Access(h *object)            {}
