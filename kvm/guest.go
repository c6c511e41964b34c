//go:build cgo

package kvm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// The guest agent's commands are documented in QEMU's "Guest Agent Protocol
// Reference" (qemu-ga-ref).

const (
	agentChannel = "org.qemu.guest_agent.0"
	agentRemedy  = "the guest agent does not answer: install qemu-guest-agent in the guest and start it"
	agentTimeout = libvirt.DomainQemuAgentCommandTimeout(10) // seconds
)

// agentConnected reports whether an agent has opened its channel.
func agentConnected(live *libvirtxml.Domain) bool {
	for _, c := range live.Devices.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == agentChannel {
			return c.Target.VirtIO.State == "connected"
		}
	}
	return false
}

// onGuest runs f with a domain whose agent is connected.
func onGuest[T any](ctx context.Context, d *driver, id hypervisor.VMID, k capability.Name, f func(dom *libvirt.Domain) (T, error)) (T, error) {
	v, err := fleet.OnDomain(ctx, d.Fleet, id, 3, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (T, error) {
		var zero T
		s, err := libvirtx.State(dom)
		if err != nil {
			return zero, err
		}
		if s != hypervisor.StateRunning {
			return zero, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: its guest can't be asked", s)
		}
		x, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return zero, err
		}
		if !agentConnected(x) {
			return zero, hypervisor.Unsupported(id.Ref(), k, hypervisor.ReasonToolsMissing, agentRemedy)
		}
		return f(dom)
	})
	if libvirtx.Is(err, libvirt.ERR_AGENT_UNRESPONSIVE) {
		err = hypervisor.Unsupported(id.Ref(), k, hypervisor.ReasonToolsMissing, agentRemedy)
	}
	return v, err
}

// agent sends one command and decodes its answer.
func agent[T any](dom *libvirt.Domain, command string, args any) (T, error) {
	var out struct {
		Return T `json:"return"`
	}
	req, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return out.Return, err
	}
	text, err := dom.QemuAgentCommand(string(req), agentTimeout, 0)
	if err != nil {
		return out.Return, err
	}
	return out.Return, json.Unmarshal([]byte(text), &out)
}

// GuestInfo implements hypervisor.GuestAgent.
func (d *driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	return onGuest(ctx, d, id, capability.GuestFacts, func(dom *libvirt.Domain) (hypervisor.GuestInfo, error) {
		var out hypervisor.GuestInfo
		info, err := agent[struct {
			Version string `json:"version"`
		}](dom, "guest-info", nil)
		if err != nil {
			return out, err
		}
		out.Tools = "qemu-guest-agent " + info.Version
		os, err := agent[struct {
			ID      string `json:"id"`
			Version string `json:"version"`
			Kernel  string `json:"kernel-release"`
		}](dom, "guest-get-osinfo", nil)
		if err == nil {
			out.OS, out.OSVersion = os.ID, os.Version
			if out.OS == "mswindows" {
				out.OS = "windows"
			}
			if out.OSVersion == "" {
				out.OSVersion = os.Kernel
			}
		}
		// Old agents lack these commands: then the facts are unknown.
		if h, err := agent[struct {
			Name string `json:"host-name"`
		}](dom, "guest-get-host-name", nil); err == nil {
			out.HostName = h.Name
		}
		if nics, err := dom.ListAllInterfaceAddresses(libvirt.DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT); err == nil {
			for _, n := range nics {
				for _, a := range n.Addrs {
					if n.Name != "lo" {
						out.Addresses = append(out.Addresses, ipaddr.Parse(a.Addr)...)
					}
				}
			}
		}
		return out, nil
	})
}

// Exec implements hypervisor.GuestAgent. The program runs with the agent's
// rights, so a User is refused.
func (d *driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	type execArgs struct {
		Path    string   `json:"path"`
		Arg     []string `json:"arg,omitempty"`
		Env     []string `json:"env,omitempty"`
		Input   string   `json:"input-data,omitempty"`
		Capture bool     `json:"capture-output"`
	}
	type status struct {
		Exited   bool   `json:"exited"`
		ExitCode int    `json:"exitcode"`
		Signal   int    `json:"signal"`
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	}
	if r.User != "" || r.Password != "" {
		return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), capability.GuestExec, hypervisor.ReasonPlatform,
			"the guest agent runs programs with its own rights: leave User and Password out")
	}
	end := time.Now().Add(r.Timeout)
	pid, err := onGuest(ctx, d, id, capability.GuestExec, func(dom *libvirt.Domain) (int, error) {
		p, err := agent[struct {
			PID int `json:"pid"`
		}](dom, "guest-exec", execArgs{r.Path, r.Args, r.Env, base64.StdEncoding.EncodeToString(r.Stdin), true})
		return p.PID, err
	})
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	for {
		s, err := onGuest(ctx, d, id, capability.GuestExec, func(dom *libvirt.Domain) (status, error) {
			return agent[status](dom, "guest-exec-status", map[string]int{"pid": pid})
		})
		if err != nil {
			return hypervisor.ExecResult{}, err
		}
		if s.Exited {
			out := hypervisor.ExecResult{ExitCode: s.ExitCode}
			if s.Signal != 0 {
				out.ExitCode = 128 + s.Signal // as a shell reports it
			}
			if out.Stdout, err = base64.StdEncoding.DecodeString(s.Out); err != nil {
				return out, fmt.Errorf("the agent's output: %w", err)
			}
			if out.Stderr, err = base64.StdEncoding.DecodeString(s.Err); err != nil {
				return out, fmt.Errorf("the agent's output: %w", err)
			}
			return r.Bound(id.Ref(), out)
		}
		if time.Now().After(end) {
			return hypervisor.ExecResult{}, hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "process %d did not end within %v and is still running in the guest", pid, r.Timeout)
		}
		if err := fleet.Pause(ctx, fleet.PollEvery/2); err != nil {
			return hypervisor.ExecResult{}, err
		}
	}
}

// GuestClock implements hypervisor.GuestAgent.
func (d *driver) GuestClock(ctx context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	return onGuest(ctx, d, id, capability.GuestClock, func(dom *libvirt.Domain) (hypervisor.ClockReading, error) {
		var best hypervisor.ClockReading
		for range 3 { // the shortest round trip is the most exact
			before := time.Now()
			ns, err := agent[int64](dom, "guest-get-time", nil)
			if err != nil {
				return best, err
			}
			half := time.Since(before) / 2
			if best.Uncertainty == 0 || half < best.Uncertainty {
				best = hypervisor.ClockReading{Guest: time.Unix(0, ns), Host: before.Add(half).Round(0), Uncertainty: half + time.Microsecond}
			}
		}
		return best, nil
	})
}

// SetGuestClock implements hypervisor.GuestAgent.
func (d *driver) SetGuestClock(ctx context.Context, id hypervisor.VMID, t time.Time) error {
	_, err := onGuest(ctx, d, id, capability.GuestClock, func(dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, dom.SetTime(t.Unix(), uint(t.Nanosecond()), 0)
	})
	return err
}

// Freeze implements hypervisor.Freezer.
func (d *driver) Freeze(ctx context.Context, id hypervisor.VMID) error {
	_, err := onGuest(ctx, d, id, capability.GuestFreeze, func(dom *libvirt.Domain) (struct{}, error) { return struct{}{}, dom.FSFreeze(nil, 0) })
	return err
}

// Thaw implements hypervisor.Freezer.
func (d *driver) Thaw(ctx context.Context, id hypervisor.VMID) error {
	_, err := onGuest(ctx, d, id, capability.GuestFreeze, func(dom *libvirt.Domain) (struct{}, error) { return struct{}{}, dom.FSThaw(nil, 0) })
	return err
}
