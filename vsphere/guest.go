package vsphere

import (
	"context"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// guestReady refuses a machine that is off or has no tools running.
func (d *driver) guestReady(ctx context.Context, id hypervisor.VMID, k hypervisor.Capability, paths ...string) (propMap, error) {
	p, err := d.one(ctx, vmRef(id), append(paths, "runtime.powerState", "guest.toolsRunningStatus")...)
	if err != nil {
		return nil, err
	}
	if s := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState")); s != hypervisor.Running {
		return nil, invalidState(id.Ref(), "the machine is %s: its guest can't be asked", s)
	}
	if p.str("guest.toolsRunningStatus") != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return nil, hypervisor.Unsupported(id.Ref(), k, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	return p, nil
}

// GuestInfo reads what VMware Tools told.
func (d *driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	p, err := d.guestReady(ctx, id, hypervisor.GuestFacts, "guest.guestFamily", "guest.guestFullName", "guest.hostName", "guest.net", "guest.ipAddress", "guest.toolsVersion")
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	g := hypervisor.GuestInfo{OSVersion: p.str("guest.guestFullName"), HostName: p.str("guest.hostName"), Tools: strings.TrimSpace("VMware Tools " + p.str("guest.toolsVersion"))}
	switch f := p.str("guest.guestFamily"); f {
	case string(types.VirtualMachineGuestOsFamilyLinuxGuest):
		g.OS = "linux"
	case string(types.VirtualMachineGuestOsFamilyWindowsGuest):
		g.OS = "windows"
	default:
		g.OS = strings.TrimSuffix(f, "Guest")
	}
	for _, n := range get[types.ArrayOfGuestNicInfo](p, "guest.net").GuestNicInfo {
		g.Addresses = append(g.Addresses, n.IpAddress...)
	}
	if ip := p.str("guest.ipAddress"); len(g.Addresses) == 0 && ip != "" {
		g.Addresses = []string{ip}
	}
	return g, nil
}

// Exec runs a program by guest operations, which need a login. vSphere tells
// the exit code by a list that is asked for; it keeps it for five minutes.
func (d *driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	if _, err := d.guestReady(ctx, id, hypervisor.GuestExec); err != nil {
		return hypervisor.ExecResult{}, err
	}
	switch {
	case r.User == "":
		return hypervisor.ExecResult{}, invalidArgument(id.Ref(), "User is empty: vSphere runs programs only for a user of the guest")
	case len(r.Stdin) > 0:
		return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), hypervisor.GuestExec, hypervisor.ReasonPlatform, "vSphere gives a program no standard input")
	case d.vc.ServiceContent.GuestOperationsManager == nil:
		return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), hypervisor.GuestExec, hypervisor.ReasonAPIVersion, "the server has no guest operations")
	}
	p, err := d.one(ctx, *d.vc.ServiceContent.GuestOperationsManager, "processManager")
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	pm := p.ref("processManager")
	auth := &types.NamePasswordAuthentication{Username: r.User, Password: r.Password}
	ctx, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	res, err := methods.StartProgramInGuest(ctx, d.rt, &types.StartProgramInGuest{This: pm, Vm: vmRef(id), Auth: auth,
		Spec: &types.GuestProgramSpec{ProgramPath: r.Path, Arguments: quote(r.Args), EnvVariables: r.Env}})
	if err != nil {
		return hypervisor.ExecResult{}, guestError(err, id)
	}
	pid := res.Returnval
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		list, err := methods.ListProcessesInGuest(ctx, d.rt, &types.ListProcessesInGuest{This: pm, Vm: vmRef(id), Auth: auth, Pids: []int64{pid}})
		if err == nil {
			for _, i := range list.Returnval {
				if i.Pid == pid && i.EndTime != nil {
					return hypervisor.ExecResult{ExitCode: int(i.ExitCode)}, nil
				}
			}
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if ctx.Err() == context.DeadlineExceeded {
			late, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer stop()
			_, _ = methods.TerminateProcessInGuest(late, d.rt, &types.TerminateProcessInGuest{This: pm, Vm: vmRef(id), Auth: auth, Pid: pid})
			return hypervisor.ExecResult{}, hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the program did not end within %v and was stopped", r.Timeout)
		}
		return hypervisor.ExecResult{}, guestError(err, id)
	}
}

// guestError: a login that the guest refuses is not this session's.
func guestError(err error, id hypervisor.VMID) error {
	switch faultOf(err).(type) {
	case *types.InvalidGuestLogin:
		return hypervisor.Errorf(hypervisor.KindPermission, id.Ref(), "the guest refuses the login (%w)", err)
	case *types.GuestOperationsUnavailable:
		return hypervisor.Unsupported(id.Ref(), hypervisor.GuestExec, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	return err
}

// quote joins arguments for the guest's shell-like parser.
func quote(args []string) string {
	var out []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`;&|<>(){}*?!#~") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// GuestClock: see noGuestClock.
func (d *driver) GuestClock(_ context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	return hypervisor.ClockReading{}, hypervisor.Unsupported(id.Ref(), hypervisor.GuestClock, hypervisor.ReasonPlatform, noGuestClock)
}

// SetGuestClock: see noGuestClock.
func (d *driver) SetGuestClock(_ context.Context, id hypervisor.VMID, _ time.Time) error {
	return hypervisor.Unsupported(id.Ref(), hypervisor.GuestClock, hypervisor.ReasonPlatform, noGuestClock)
}
