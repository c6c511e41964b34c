package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The managers of a host that govmomi's simulator refers to and does not have.
type (
	passthroughFront struct{ receiver }
	graphicsFront    struct{ receiver }
	clockFront       struct{ receiver }
)

// hostOf is the host that a manager belongs to.
func (s *Sim) hostOf(manager ref) *simulator.HostSystem {
	for _, h := range s.allHosts() {
		c := h.ConfigManager
		for _, r := range []*ref{c.PciPassthruSystem, c.GraphicsManager, c.DateTimeSystem} {
			if r != nil && *r == manager {
				return h
			}
		}
	}
	return nil
}

// UpdatePassthruConfig: API reference HostPciPassthruSystem.UpdatePassthruConfig; HostConfigFault. HostPciPassthruConfig.applyNow "If true, the
// operation will be applied immediately without the need for a host reboot"; without it the device is active after the restart of the host.
func (f *passthroughFront) UpdatePassthruConfig(ctx *simulator.Context, req *types.UpdatePassthruConfig) soap.HasFault {
	s, body := f.sim, new(methods.UpdatePassthruConfigBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hostOf(req.This)
	if h == nil {
		body.Fault_ = soapFault(&types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	for _, c := range req.Config {
		if fault := s.checkPassthroughConfig(h, c); fault != nil {
			body.Fault_ = soapFault(fault)
			return body
		}
	}
	fctx := s.fork(ctx)
	s.mutate(fctx, h, func() {
		info := clone(h.Config.PciPassthruInfo)
		for _, c := range req.Config {
			applyPassthrough(info, c)
		}
		h.Config.PciPassthruInfo = info
	})
	s.publishPassthrough(fctx, h)
	body.Res = new(types.UpdatePassthruConfigResponse)
	return body
}

func (s *Sim) checkPassthroughConfig(h *simulator.HostSystem, c types.BaseHostPciPassthruConfig) types.BaseMethodFault {
	want := c.GetHostPciPassthruConfig()
	for _, b := range h.Config.PciPassthruInfo {
		i := b.GetHostPciPassthruInfo()
		if i.Id != want.Id {
			continue
		}
		if want.PassthruEnabled && !i.PassthruCapable {
			return new(types.HostConfigFault)
		}
		if v, ok := c.(*types.HostSriovConfig); ok && v.SriovEnabled {
			info, capable := b.(*types.HostSriovInfo)
			switch {
			case !s.licensed(FeatureSRIOV):
				return restricted()
			case !capable || !info.SriovCapable || v.NumVirtualFunction > info.MaxVirtualFunctionSupported || v.NumVirtualFunction < 0:
				return new(types.HostConfigFault)
			}
		}
		if i.PassthruActive && !want.PassthruEnabled && s.freeDevices(h, nil).whole[i.Id] {
			return &types.ResourceInUse{Type: "PCIDevice", Name: i.Id}
		}
		return nil
	}
	return new(types.HostConfigFault) // there is no such device
}

func applyPassthrough(info []types.BaseHostPciPassthruInfo, c types.BaseHostPciPassthruConfig) {
	want := c.GetHostPciPassthruConfig()
	for _, b := range info {
		i := b.GetHostPciPassthruInfo()
		if i.Id != want.Id {
			continue
		}
		i.PassthruEnabled = want.PassthruEnabled
		if want.HardwareLabel != "" {
			i.HardwareLabel = want.HardwareLabel
		}
		now := want.ApplyNow != nil && *want.ApplyNow
		if now {
			i.PassthruActive = i.PassthruEnabled
		}
		if v, ok := c.(*types.HostSriovConfig); ok {
			if x, ok := b.(*types.HostSriovInfo); ok {
				x.SriovEnabled, x.NumVirtualFunctionRequested = v.SriovEnabled, v.NumVirtualFunction
				if now {
					x.SriovActive, x.NumVirtualFunction = v.SriovEnabled, v.NumVirtualFunction
				}
			}
		}
	}
}

// publishPassthrough copies the host's property to the manager's.
func (s *Sim) publishPassthrough(ctx *simulator.Context, h *simulator.HostSystem) {
	m, ok := s.registry().Get(*h.ConfigManager.PciPassthruSystem).(*mo.HostPciPassthruSystem)
	if !ok {
		return
	}
	info := clone(h.Config.PciPassthruInfo)
	s.update(ctx, m, []types.PropertyChange{{Name: "pciPassthruInfo", Val: info}})
}

// Refresh: API reference HostPciPassthruSystem.Refresh, HostGraphicsManager.RefreshGraphicsManager.
func (f *passthroughFront) Refresh(*simulator.Context, *types.Refresh) soap.HasFault {
	return &methods.RefreshBody{Res: new(types.RefreshResponse)}
}

func (f *graphicsFront) RefreshGraphicsManager(*simulator.Context, *types.RefreshGraphicsManager) soap.HasFault {
	return &methods.RefreshGraphicsManagerBody{Res: new(types.RefreshGraphicsManagerResponse)}
}

// UpdateGraphicsConfig: API reference HostGraphicsManager.UpdateGraphicsConfig; InvalidArgument, NotFound for a device that is not there.
func (f *graphicsFront) UpdateGraphicsConfig(ctx *simulator.Context, req *types.UpdateGraphicsConfig) soap.HasFault {
	s, body := f.sim, new(methods.UpdateGraphicsConfigBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hostOf(req.This)
	var fault types.BaseMethodFault
	kinds := []string{"shared", "sharedDirect"}
	switch {
	case h == nil:
		fault = &types.ManagedObjectNotFound{Obj: req.This}
	case !contains(kinds, req.Config.HostDefaultGraphicsType):
		fault = invalid("config.hostDefaultGraphicsType")
	case !contains([]string{"performance", "consolidation"}, req.Config.SharedPassthruAssignmentPolicy):
		fault = invalid("config.sharedPassthruAssignmentPolicy")
	default:
		for _, d := range req.Config.DeviceType {
			known := false
			for _, g := range h.Config.GraphicsInfo {
				known = known || g.PciId == d.DeviceId
			}
			if !known {
				fault = new(types.NotFound)
			} else if !contains(kinds, d.GraphicsType) {
				fault = invalid("config.deviceType.graphicsType")
			}
		}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	fctx := s.fork(ctx)
	s.mutate(fctx, h, func() {
		c := clone(req.Config)
		h.Config.GraphicsConfig = &c
		info := clone(h.Config.GraphicsInfo)
		for _, d := range c.DeviceType {
			for i := range info {
				if info[i].PciId == d.DeviceId {
					info[i].GraphicsType = d.GraphicsType
				}
			}
		}
		h.Config.GraphicsInfo = info
	})
	if m, ok := s.registry().Get(req.This).(*mo.HostGraphicsManager); ok {
		s.mutate(fctx, m, func() { m.GraphicsConfig, m.GraphicsInfo = h.Config.GraphicsConfig, h.Config.GraphicsInfo })
	}
	body.Res = new(types.UpdateGraphicsConfigResponse)
	return body
}

func (f *graphicsFront) IsSharedGraphicsActive(_ *simulator.Context, req *types.IsSharedGraphicsActive) soap.HasFault {
	h := f.sim.hostOf(req.This)
	on := h != nil && len(h.Config.SharedPassthruGpuTypes) > 0
	return &methods.IsSharedGraphicsActiveBody{Res: &types.IsSharedGraphicsActiveResponse{Returnval: on}}
}

// QueryDateTime: API reference HostDateTimeSystem.QueryDateTime.
func (f *clockFront) QueryDateTime(*simulator.Context, *types.QueryDateTime) soap.HasFault {
	return &methods.QueryDateTimeBody{Res: &types.QueryDateTimeResponse{Returnval: time.Now().UTC()}}
}
