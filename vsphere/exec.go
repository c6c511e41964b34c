package vsphere

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// run is one program in a guest.
type run struct {
	d               *driver
	id              hypervisor.VMID
	auth            *types.NamePasswordAuthentication
	programs, files ref // the managers
}

// Exec runs a program by guest operations, which need a login. vSphere tells
// the exit code by a list that is asked for; it keeps it for five minutes. The
// output goes to temporary files of the guest and is fetched from there, so
// that a shell runs the program: one that isn't there ends with its 127. On
// Windows there is no output.
func (d *driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	guest, err := d.guestReady(ctx, id, hypervisor.GuestExec, "guest.guestFamily", "config.guestId")
	if err != nil {
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
	p, err := d.one(ctx, *d.vc.ServiceContent.GuestOperationsManager, "processManager", "fileManager")
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	limit, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	x := &run{d: d, id: id, auth: &types.NamePasswordAuthentication{Username: r.User, Password: r.Password},
		programs: p.ref("processManager"), files: p.ref("fileManager")}
	spec := types.GuestProgramSpec{ProgramPath: r.Path, Arguments: quote(r.Args), EnvVariables: r.Env}
	failed := func(err error) error {
		if ctx.Err() == nil && limit.Err() != nil {
			return hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the program did not end within %v and was stopped", r.Timeout)
		}
		return guestError(err, id)
	}
	var outputs []string // names of the files
	if !isWindows(guest) {
		defer func() { x.remove(limit, outputs) }()
		for _, what := range []string{".out", ".err"} {
			f, err := methods.CreateTemporaryFileInGuest(limit, d.rt, &types.CreateTemporaryFileInGuest{This: x.files, Vm: vmRef(id), Auth: x.auth, Prefix: "anyvisor", Suffix: what})
			if err != nil {
				return hypervisor.ExecResult{}, failed(err)
			}
			outputs = append(outputs, f.Returnval)
		}
		line := "exec " + quote(append([]string{r.Path}, r.Args...)) + " 1>" + quote(outputs[:1]) + " 2>" + quote(outputs[1:])
		spec.ProgramPath, spec.Arguments = "/bin/sh", quote([]string{"-c", line})
	}
	code, err := x.wait(limit, &spec)
	if err != nil {
		return hypervisor.ExecResult{}, failed(err)
	}
	res := hypervisor.ExecResult{ExitCode: code}
	for i, to := range []*[]byte{&res.Stdout, &res.Stderr}[:len(outputs)] {
		if *to, err = x.fetch(limit, outputs[i]); err != nil {
			return hypervisor.ExecResult{}, failed(err)
		}
	}
	return res, nil
}

func isWindows(guest propMap) bool {
	return guest.str("guest.guestFamily") == string(types.VirtualMachineGuestOsFamilyWindowsGuest) || strings.HasPrefix(guest.str("config.guestId"), "win")
}

// wait starts the program, asks until it has ended, and stops it when ctx
// ends.
func (x *run) wait(ctx context.Context, spec *types.GuestProgramSpec) (int, error) {
	res, err := methods.StartProgramInGuest(ctx, x.d.rt, &types.StartProgramInGuest{This: x.programs, Vm: vmRef(x.id), Auth: x.auth, Spec: spec})
	if err != nil {
		return 0, err
	}
	pid := res.Returnval
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		list, err := methods.ListProcessesInGuest(ctx, x.d.rt, &types.ListProcessesInGuest{This: x.programs, Vm: vmRef(x.id), Auth: x.auth, Pids: []int64{pid}})
		if err == nil {
			for _, i := range list.Returnval {
				if i.Pid == pid && i.EndTime != nil {
					return int(i.ExitCode), nil
				}
			}
			select {
			case <-time.After(pause):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if ctx.Err() != nil {
			x.d.later(func(ctx context.Context) {
				_, _ = methods.TerminateProcessInGuest(ctx, x.d.rt, &types.TerminateProcessInGuest{This: x.programs, Vm: vmRef(x.id), Auth: x.auth, Pid: pid})
			})
		}
		return 0, err
	}
}

// remove deletes the files of the outputs, without the caller where its time
// is over. What can't be deleted lies in the guest's folder for temporary files.
func (x *run) remove(ctx context.Context, files []string) {
	all := func(ctx context.Context) {
		for _, f := range files {
			_, _ = methods.DeleteFileInGuest(ctx, x.d.rt, &types.DeleteFileInGuest{This: x.files, Vm: vmRef(x.id), Auth: x.auth, FilePath: f})
		}
	}
	if ctx.Err() != nil {
		x.d.later(all)
		return
	}
	all(ctx)
}

// fetch reads a file of the guest.
func (x *run) fetch(ctx context.Context, file string) ([]byte, error) {
	res, err := methods.InitiateFileTransferFromGuest(ctx, x.d.rt, &types.InitiateFileTransferFromGuest{This: x.files, Vm: vmRef(x.id), Auth: x.auth, GuestFilePath: file})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(res.Returnval.Url)
	if err != nil {
		return nil, err
	}
	from := x.d.vc.Client
	switch {
	case u.Hostname() == "*": // the server itself (API reference, FileTransferInformation.url)
		u.Host = from.URL().Host
	case u.Host != from.URL().Host: // the host that runs the machine, whose certificate the vCenter vouches for
		p, err := x.d.one(ctx, vmRef(x.id), "runtime.host")
		if err != nil {
			return nil, err
		}
		if p, err = x.d.one(ctx, p.ref("runtime.host"), "summary.config.sslThumbprint"); err != nil {
			return nil, err
		}
		from = soap.NewClient(u, false)
		defer from.CloseIdleConnections()
		if t := p.str("summary.config.sslThumbprint"); t != "" {
			from.SetThumbprint(u.Host, t)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	hypervisor.CountCalls(ctx, 1)
	var body []byte
	err = from.Do(ctx, req, func(res *http.Response) error {
		if res.StatusCode != http.StatusOK {
			return hypervisor.Errorf(hypervisor.KindUnavailable, x.id.Ref(), "the transfer of a program's output: %s", res.Status)
		}
		body, err = io.ReadAll(res.Body)
		return err
	})
	return body, transportError(err)
}

// guestError: a login that the guest refuses is not this session's.
func guestError(err error, id hypervisor.VMID) error {
	switch faultOf(err).(type) {
	case *types.InvalidGuestLogin:
		return hypervisor.Errorf(hypervisor.KindPermission, id.Ref(), "the guest refuses the login (%w)", err)
	case *types.GuestPermissionDenied:
		return hypervisor.Errorf(hypervisor.KindPermission, id.Ref(), "the guest refuses this to its user (%w)", err)
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
