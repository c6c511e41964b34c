package vsphere

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// run is one program in a guest.
type run struct {
	d               *driver
	id              hypervisor.VMID
	auth            *types.NamePasswordAuthentication
	programs, files ref // the managers
}

// Exec runs a program with guest operations, which need a login. vSphere
// reports the exit code in a list that must be polled, and keeps it for five
// minutes. The output goes to temporary files of the guest and is fetched
// from there. For this a shell runs the program, so a program that does not
// exist ends with the shell's 127. On Windows there is no output.
func (d *driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	guest, err := d.guestReady(ctx, id, capability.GuestExec, "guest.guestFamily", "config.guestId")
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	switch {
	case r.User == "":
		return hypervisor.ExecResult{}, invalidArgument(id.Ref(), "User is empty: vSphere runs programs only for a user of the guest")
	case len(r.Stdin) > 0:
		return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), capability.GuestExec, hypervisor.ReasonPlatform, "vSphere gives a program no standard input")
	case d.vc.ServiceContent.GuestOperationsManager == nil:
		return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), capability.GuestExec, hypervisor.ReasonAPIVersion, "the server has no guest operations")
	}
	p, err := d.one(ctx, *d.vc.ServiceContent.GuestOperationsManager, "processManager", "fileManager")
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	limit, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	x := &run{d: d, id: id, auth: &types.NamePasswordAuthentication{Username: r.User, Password: string(r.Password)},
		programs: p.ref("processManager"), files: p.ref("fileManager")}
	spec := types.GuestProgramSpec{ProgramPath: r.Path, Arguments: quoteWindows(r.Args), EnvVariables: r.Env}
	failed := func(err error) error {
		if ctx.Err() == nil && limit.Err() != nil {
			return hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the program did not end within %v and was stopped", r.Timeout)
		}
		return guestError(err, id)
	}
	var outputs []string // names of the files
	if !isWindows(guest) {
		defer func() { x.remove(limit, outputs) }()
		for _, what := range []string{".out", ".err"} {
			f, err := unlessLate(limit, d, func(ctx context.Context) (*types.CreateTemporaryFileInGuestResponse, error) {
				return methods.CreateTemporaryFileInGuest(ctx, d.rt, &types.CreateTemporaryFileInGuest{This: x.files, Vm: vmRef(id), Auth: x.auth, Prefix: "anyvisor", Suffix: what})
			}, func(ctx context.Context, f *types.CreateTemporaryFileInGuestResponse) {
				x.remove(ctx, []string{f.Returnval})
			})
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
		if *to, err = x.fetch(limit, outputs[i], r.MaxOutput); err != nil {
			return hypervisor.ExecResult{}, failed(err)
		}
	}
	return r.Bound(id.Ref(), res)
}

func isWindows(guest propMap) bool {
	return guest.str("guest.guestFamily") == string(types.VirtualMachineGuestOsFamilyWindowsGuest) || strings.HasPrefix(guest.str("config.guestId"), "win")
}

// wait starts the program, polls until it has ended, and stops it when ctx
// ends.
func (x *run) wait(ctx context.Context, spec *types.GuestProgramSpec) (int, error) {
	stop := func(ctx context.Context, p *types.StartProgramInGuestResponse) {
		_, _ = methods.TerminateProcessInGuest(ctx, x.d.rt, &types.TerminateProcessInGuest{This: x.programs, Vm: vmRef(x.id), Auth: x.auth, Pid: p.Returnval})
	}
	res, err := unlessLate(ctx, x.d, func(ctx context.Context) (*types.StartProgramInGuestResponse, error) {
		return methods.StartProgramInGuest(ctx, x.d.rt, &types.StartProgramInGuest{This: x.programs, Vm: vmRef(x.id), Auth: x.auth, Spec: spec})
	}, stop)
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
			x.d.later(func(ctx context.Context) { stop(ctx, res) })
		}
		return 0, err
	}
}

// remove deletes the files of the outputs, even if the caller's time is over.
// A file that can't be deleted remains in the guest's folder for temporary
// files.
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

// fetch reads a file of the guest, up to one byte more than most.
func (x *run) fetch(ctx context.Context, file string, most int) ([]byte, error) {
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
	case u.Scheme != from.URL().Scheme || u.User != nil:
		return nil, hypervisor.Errorf(hypervisor.ErrUnavailable, x.id.Ref(), "the server refers to an address of another kind (%q) for a program's output", u.Scheme)
	case u.Hostname() == "*": // the server itself (API reference, FileTransferInformation.url)
		u.Host = from.URL().Host
	case u.Host != from.URL().Host: // the host that runs the machine, whose certificate the vCenter vouches for
		p, err := x.d.one(ctx, vmRef(x.id), "runtime.host")
		if err != nil {
			return nil, err
		}
		if p, err = x.d.one(ctx, p.ref("runtime.host"), "summary.config.sslThumbprint", "name", "config.network.vnic", "config.network.dnsConfig"); err != nil {
			return nil, err
		}
		if !namesHost(p, u.Hostname()) {
			return nil, hypervisor.Errorf(hypervisor.ErrUnavailable, x.id.Ref(), "the server refers to %q for a program's output, which is not the host that runs the machine", u.Hostname())
		}
		from = soap.NewClient(u, false)
		x.d.config.bound(from)
		defer hangUp(from)
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
			return hypervisor.Errorf(hypervisor.ErrUnavailable, x.id.Ref(), "the transfer of a program's output: %s", res.Status)
		}
		from := io.Reader(res.Body)
		if most > 0 {
			from = io.LimitReader(from, int64(most)+1)
		}
		body, err = io.ReadAll(from)
		return err
	})
	if e := (*url.Error)(nil); errors.As(err, &e) { // the parameters let anybody read the file
		e.URL = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	return body, transportError(err)
}

// namesHost reports whether a name or an IP address is one of a host.
func namesHost(p propMap, name string) bool {
	dns := get[types.HostDnsConfig](p, "config.network.dnsConfig")
	known := []string{p.str("name"), dns.HostName, dns.HostName + "." + dns.DomainName}
	for _, n := range get[types.ArrayOfHostVirtualNic](p, "config.network.vnic").HostVirtualNic {
		if n.Spec.Ip != nil {
			known = append(known, n.Spec.Ip.IpAddress)
		}
	}
	return name != "" && slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) })
}

// guestError: a login that the guest refuses is not a refusal of this
// session's login.
func guestError(err error, id hypervisor.VMID) error {
	switch faultOf(err).(type) {
	case *types.InvalidGuestLogin:
		return hypervisor.Errorf(hypervisor.ErrPermission, id.Ref(), "the guest refuses the login (%w)", err)
	case *types.GuestPermissionDenied:
		return hypervisor.Errorf(hypervisor.ErrPermission, id.Ref(), "the guest refuses this to its user (%w)", err)
	case *types.GuestOperationsUnavailable:
		return hypervisor.Unsupported(id.Ref(), capability.GuestExec, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	return err
}

// plain matches arguments that every shell takes literally.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+:,./-]+$`)

// quote joins arguments for a POSIX shell so that each keeps its value.
func quote(args []string) string {
	var out []string
	for _, a := range args {
		if !plain.MatchString(a) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// quoteWindows joins arguments for the rules of CommandLineToArgvW and the C
// runtime: backslashes count twice before a quotation mark, and as themselves
// elsewhere.
func quoteWindows(args []string) string {
	var out []string
	for _, a := range args {
		if a != "" && !strings.ContainsAny(a, " \t\n\v\"") {
			out = append(out, a)
			continue
		}
		b := []byte{'"'}
		slashes := 0
		for _, c := range []byte(a) {
			switch c {
			case '\\':
				slashes++
			case '"':
				b = append(b, strings.Repeat(`\`, slashes+1)...)
				slashes = 0
			default:
				slashes = 0
			}
			b = append(b, c)
		}
		out = append(out, string(append(b, strings.Repeat(`\`, slashes)+`"`...)))
	}
	return strings.Join(out, " ")
}
