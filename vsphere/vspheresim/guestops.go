package vspheresim

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Guest operations on a guest that Guest describes. govmomi's simulator runs them in a container, or crashes if the machine has none.

// guestProcess is a program that guest operations started.
type guestProcess struct{ info types.GuestProcessInfo }

type (
	guestAuthFront    struct{ receiver }
	guestProcessFront struct{ receiver }
	guestFileFront    struct{ receiver }
)

// Result is the outcome of a program in a guest.
type Result struct {
	ExitCode       int32
	Stdout, Stderr string
	Takes          time.Duration // until the program ends
}

// login checks that guest operations are possible. API reference: GuestOperationsFault and its kinds GuestOperationsUnavailable "if the VMware Tools
// are not running", InvalidGuestLogin; InvalidPowerState "if the virtual machine is not powered on".
func (s *Sim) login(r ref, auth types.BaseGuestAuthentication) (*simulator.VirtualMachine, types.BaseMethodFault) {
	vm, fault := s.live(r)
	switch {
	case fault != nil:
		return nil, fault
	case vm.Runtime.PowerState != poweredOn:
		return nil, wrongPower(vm, poweredOn)
	case s.toolsFault(vm) != nil:
		return nil, new(types.GuestOperationsUnavailable)
	}
	np, ok := auth.(*types.NamePasswordAuthentication)
	g := s.stateOf(r).guest
	if !ok || np.Username == "" || g.User != "" && (np.Username != g.User || np.Password != g.Password) {
		return nil, new(types.InvalidGuestLogin)
	}
	return vm, nil
}

func (f *guestAuthFront) ValidateCredentialsInGuest(_ *simulator.Context, req *types.ValidateCredentialsInGuest) soap.HasFault {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if _, fault := f.sim.login(req.Vm, req.Auth); fault != nil {
		return &methods.ValidateCredentialsInGuestBody{Fault_: soapFault(fault)}
	}
	return &methods.ValidateCredentialsInGuestBody{Res: new(types.ValidateCredentialsInGuestResponse)}
}

func userOf(auth types.BaseGuestAuthentication) string {
	if np, ok := auth.(*types.NamePasswordAuthentication); ok {
		return np.Username
	}
	return ""
}

// redirect matches the file to which a shell command line sends its output.
var redirect = regexp.MustCompile(`([12]?)>+\s*['"]?([^\s'"&;|]+)`)

// StartProgramInGuest: API reference GuestProcessManager.StartProgramInGuest. The program has ended when the call returns; what it
// wrote is in the files that its command line redirects to.
func (f *guestProcessFront) StartProgramInGuest(_ *simulator.Context, req *types.StartProgramInGuest) soap.HasFault {
	s, body := f.sim, new(methods.StartProgramInGuestBody)
	s.mu.Lock()
	_, fault := s.login(req.Vm, req.Auth)
	var spec *types.GuestProgramSpec
	if req.Spec != nil {
		spec = req.Spec.GetGuestProgramSpec()
	}
	if fault == nil && (spec == nil || spec.ProgramPath == "") {
		fault = &types.FileNotFound{}
	}
	if fault != nil {
		s.mu.Unlock()
		body.Fault_ = soapFault(fault)
		return body
	}
	run := s.stateOf(req.Vm).guest.Run
	s.mu.Unlock()

	started := time.Now()
	var res Result
	if run != nil {
		// API reference: GuestProgramSpec.envVariables, "An array of environment variables, specified in the guest OS notation
		// (eg PATH=c:\bin;c:\windows\system32 or LD_LIBRARY_PATH=/usr/lib:/lib), to be set for the program being run". Run sees
		// what a shell would make of them.
		arguments := spec.Arguments
		for _, kv := range spec.EnvVariables {
			k, v, _ := strings.Cut(kv, "=")
			arguments = strings.ReplaceAll(arguments, "$"+k, v)
		}
		res = run(spec.ProgramPath, arguments)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stateOf(req.Vm)
	for _, m := range redirect.FindAllStringSubmatch(spec.Arguments, -1) {
		out := res.Stdout
		if m[1] == "2" {
			out = res.Stderr
		}
		st.write(m[2], out)
	}
	st.nextPID++
	st.processes = append(st.processes, &guestProcess{info: types.GuestProcessInfo{
		Name: path.Base(spec.ProgramPath), Pid: st.nextPID, Owner: userOf(req.Auth), CmdLine: strings.TrimSpace(spec.ProgramPath + " " + spec.Arguments),
		StartTime: started, EndTime: types.NewTime(time.Now().Add(res.Takes)), ExitCode: res.ExitCode,
	}})
	body.Res = &types.StartProgramInGuestResponse{Returnval: st.nextPID}
	return body
}

func (st *vmState) write(file, content string) {
	files := map[string]string{}
	for k, v := range st.guest.Files {
		files[k] = v
	}
	files[file] = content
	st.guest.Files = files
}

// ListProcessesInGuest: API reference GuestProcessManager.ListProcessesInGuest; all if pids is empty.
func (f *guestProcessFront) ListProcessesInGuest(_ *simulator.Context, req *types.ListProcessesInGuest) soap.HasFault {
	s, body := f.sim, new(methods.ListProcessesInGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, fault := s.login(req.Vm, req.Auth); fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	body.Res = new(types.ListProcessesInGuestResponse)
	for _, p := range s.stateOf(req.Vm).processes {
		if len(req.Pids) == 0 || slices.Contains(req.Pids, p.info.Pid) {
			i := p.info
			if i.EndTime.After(time.Now()) { // it runs
				i.EndTime, i.ExitCode = nil, 0
			}
			body.Res.Returnval = append(body.Res.Returnval, i)
		}
	}
	return body
}

func (f *guestProcessFront) TerminateProcessInGuest(_ *simulator.Context, req *types.TerminateProcessInGuest) soap.HasFault {
	s, body := f.sim, new(methods.TerminateProcessInGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, fault := s.login(req.Vm, req.Auth); fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	for _, p := range s.stateOf(req.Vm).processes {
		if p.info.Pid == req.Pid {
			body.Res = new(types.TerminateProcessInGuestResponse)
			return body
		}
	}
	body.Fault_ = soapFault(&types.GuestProcessNotFound{Pid: req.Pid})
	return body
}

func (f *guestProcessFront) ReadEnvironmentVariableInGuest(_ *simulator.Context, req *types.ReadEnvironmentVariableInGuest) soap.HasFault {
	s, body := f.sim, new(methods.ReadEnvironmentVariableInGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, fault := s.login(req.Vm, req.Auth); fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	body.Res = &types.ReadEnvironmentVariableInGuestResponse{Returnval: []string{"PATH=/usr/bin:/bin", "USER=" + userOf(req.Auth)}}
	return body
}

func (f *guestFileFront) CreateTemporaryFileInGuest(_ *simulator.Context, req *types.CreateTemporaryFileInGuest) soap.HasFault {
	s, body := f.sim, new(methods.CreateTemporaryFileInGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, fault := s.login(req.Vm, req.Auth); fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	dir := req.DirectoryPath
	if dir == "" {
		dir = "/tmp"
	}
	name := path.Join(dir, req.Prefix+newContentID()[:8]+req.Suffix)
	s.stateOf(req.Vm).write(name, "")
	body.Res = &types.CreateTemporaryFileInGuestResponse{Returnval: name}
	return body
}

func (f *guestFileFront) DeleteFileInGuest(_ *simulator.Context, req *types.DeleteFileInGuest) soap.HasFault {
	s, body := f.sim, new(methods.DeleteFileInGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, fault := s.login(req.Vm, req.Auth)
	st := s.stateOf(req.Vm)
	if _, ok := st.guest.Files[req.FilePath]; fault == nil && !ok {
		fault = &types.FileNotFound{FileFault: types.FileFault{File: req.FilePath}}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	st.write(req.FilePath, "")
	delete(st.guest.Files, req.FilePath)
	body.Res = new(types.DeleteFileInGuestResponse)
	return body
}

// InitiateFileTransferFromGuest: API reference GuestFileManager.InitiateFileTransferFromGuest; the file is fetched by GET from the address.
func (f *guestFileFront) InitiateFileTransferFromGuest(_ *simulator.Context, req *types.InitiateFileTransferFromGuest) soap.HasFault {
	s, body := f.sim, new(methods.InitiateFileTransferFromGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, fault := s.login(req.Vm, req.Auth)
	content, ok := s.stateOf(req.Vm).guest.Files[req.GuestFilePath]
	if fault == nil && !ok {
		fault = &types.FileNotFound{FileFault: types.FileFault{File: req.GuestFilePath}}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	body.Res = &types.InitiateFileTransferFromGuestResponse{Returnval: types.FileTransferInformation{
		Attributes: new(types.GuestFileAttributes), Size: int64(len(content)), Url: s.guestURL(req.Vm, req.GuestFilePath),
	}}
	return body
}

// InitiateFileTransferToGuest: API reference GuestFileManager.InitiateFileTransferToGuest; FileAlreadyExists without overwrite.
func (f *guestFileFront) InitiateFileTransferToGuest(_ *simulator.Context, req *types.InitiateFileTransferToGuest) soap.HasFault {
	s, body := f.sim, new(methods.InitiateFileTransferToGuestBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, fault := s.login(req.Vm, req.Auth)
	if _, ok := s.stateOf(req.Vm).guest.Files[req.GuestFilePath]; fault == nil && ok && !req.Overwrite {
		fault = &types.FileAlreadyExists{FileFault: types.FileFault{File: req.GuestFilePath}}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	body.Res = &types.InitiateFileTransferToGuestResponse{Returnval: s.guestURL(req.Vm, req.GuestFilePath)}
	return body
}

const guestFiles = "/vspheresim/guestFile"

// guestURL returns the address where a file of a guest is read and written. API reference, FileTransferInformation.url: a host of "*" means the
// server that the client talks to, an ESXi host. A vCenter names the host that runs the machine, which is this simulator by another name.
func (s *Sim) guestURL(vm ref, file string) string {
	token := newContentID()
	s.tokens[token] = guestFile{vm: vm, path: file}
	host := "*"
	if s.cfg.Model == VCenter {
		host = "localhost:" + s.server.URL.Port()
	}
	u := url.URL{Scheme: s.server.URL.Scheme, Host: host, Path: guestFiles, RawQuery: url.Values{"token": {token}}.Encode()}
	if s.redirect != nil {
		s.redirect(&u)
	}
	return u.String()
}

// RedirectFiles changes the addresses where files of guests are read and written, as a hostile server does. nil ends that.
func (s *Sim) RedirectFiles(change func(*url.URL)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redirect = change
}

type guestFile struct {
	vm   ref
	path string
}

// serveGuestFile transfers one file.
func (s *Sim) serveGuestFile(w http.ResponseWriter, r *http.Request, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.tokens[r.URL.Query().Get("token")]
	if !ok || s.vm(f.vm) == nil {
		http.Error(w, "no such transfer", http.StatusNotFound)
		return
	}
	st := s.stateOf(f.vm)
	switch r.Method {
	case http.MethodGet:
		_, _ = w.Write([]byte(st.guest.Files[f.path]))
	case http.MethodPut:
		st.write(f.path, string(content))
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
