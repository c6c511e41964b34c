//go:build cgo

package libvirtx

import "libvirt.org/go/libvirtxml"

// MakeSingle removes from the definition of a copy everything that only one
// machine can have. It returns a note for each thing that the copy loses and
// its user may miss.
func MakeSingle(x *libvirtxml.Domain) (notes []string) {
	x.GenID, x.HWUUID, x.SysInfo = nil, "", nil
	if o := x.OS; o != nil {
		if o.NVRam != nil && o.NVRam.NVRam != "" {
			notes = append(notes, "the clone begins with new firmware variables: those of its source are in "+o.NVRam.NVRam+", which libvirt can't copy")
		}
		o.NVRam = nil
	}
	if x.Devices == nil {
		return notes
	}
	for i := range x.Devices.Graphics {
		g := &x.Devices.Graphics[i]
		if g.VNC != nil && g.VNC.Port > 0 || g.Spice != nil && (g.Spice.Port > 0 || g.Spice.TLSPort > 0) {
			notes = append(notes, "the clone's display gets a free port: its source has a fixed one, which only one machine can use")
		}
		if v := g.VNC; v != nil {
			v.Socket, v.Port, v.AutoPort = "", -1, "yes"
			if v.WebSocket > 0 {
				v.WebSocket = -1
			}
			freeSockets(v.Listeners)
		}
		if v := g.Spice; v != nil {
			v.Port, v.TLSPort, v.AutoPort = 0, 0, "yes"
			freeSockets(v.Listeners)
		}
	}
	for i := range x.Devices.Channels {
		if s := x.Devices.Channels[i].Source; s != nil && s.UNIX != nil {
			s.UNIX = &libvirtxml.DomainChardevSourceUNIX{} // the path contains the source's name
		}
	}
	return notes
}

// freeSockets lets libvirt name the sockets that a display listens on.
func freeSockets(all []libvirtxml.DomainGraphicListener) {
	for _, l := range all {
		if l.Socket != nil {
			l.Socket.Socket = ""
		}
	}
}
