package hyperv

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// messages are the numbers of Hyper-V's messages (MessageID of Msvm_Error,
// which Compare-VM prints as MessageId). The texts are in the host's
// language, the numbers are not.
var messages = map[string]hypervisor.ReasonCode{
	"14420": hypervisor.ReasonCPU, // more processors than the target has
	"24000": hypervisor.ReasonVersion,
	"24004": hypervisor.ReasonCPU, // features of the processor
	"33012": hypervisor.ReasonNetworkMissing,
}

// systemErrors are numbers of Windows (winerror.h) that are in the texts of
// every language, as "(0x8009030E)".
var systemErrors = map[uint32]hypervisor.ReasonCode{
	0x80070002: hypervisor.ReasonDiskUnreachable, // file not found
	0x80070003: hypervisor.ReasonDiskUnreachable, // path not found
	0x8007000E: hypervisor.ReasonNoMemory,
	0x800705AA: hypervisor.ReasonNoMemory, // no system resources
	0x80070070: hypervisor.ReasonNoSpace,
	0x8007274C: hypervisor.ReasonHostDown, // connection timed out
	0x8007274D: hypervisor.ReasonHostDown, // connection refused
}

// credentialErrors are those of a source host that cannot log in on the
// target (winerror.h, SEC_E_…).
var credentialErrors = map[uint32]bool{
	0x8009030C: true, // logon denied
	0x8009030D: true, // unknown credentials
	0x8009030E: true, // no credentials
	0x80090303: true, // target unknown
	0x80090322: true, // wrong principal
}

const delegate = "the source host could not log in on the target: give its computer account constrained delegation to the target for the services cifs and Microsoft Virtual System Migration Service"

var errorNumber = regexp.MustCompile(`0x([0-9A-Fa-f]{8})`)

// reasonOf finds the reason in a message's number and in the numbers in its
// text.
func reasonOf(id, text string) (reason hypervisor.ReasonCode, advice string) {
	if r, ok := messages[id]; ok {
		return r, ""
	}
	for _, m := range errorNumber.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseUint(m[1], 16, 32) // eight hexadecimal digits
		if r, ok := systemErrors[uint32(n)]; ok {
			return r, ""
		}
		if credentialErrors[uint32(n)] {
			return hypervisor.ReasonConfig, delegate + ": "
		}
	}
	return hypervisor.ReasonConfig, ""
}

// explain turns a refusal by the host's own check into blockers: one for each
// error of its job.
func (v *move) explain(ctx context.Context, r *cim.Result, refusal error) {
	on := v.m.id.Ref()
	for _, e := range v.jobErrors(ctx, r) {
		text := e.Str("Message")
		reason, advice := reasonOf(e.Str("MessageID"), text)
		v.block(reason, on, "the host's own check: %s%s", advice, text)
	}
	if len(v.report.Blockers) > 0 {
		return
	}
	text := ""
	var ce *cim.Error
	if errors.As(refusal, &ce) && ce.Job != nil {
		text = ce.Job.Text
	}
	reason, advice := reasonOf("", text)
	v.block(reason, on, "the host's own check: %s%v", advice, refusal)
}

// jobErrors reads the errors of an ended job. There are none if it is gone,
// or there was no job.
func (v *move) jobErrors(ctx context.Context, r *cim.Result) []*cim.Instance {
	if r == nil {
		return nil
	}
	job, ok := r.Job()
	if !ok {
		return nil
	}
	res, err := cim.Call(ctx, v.m.s, job, "GetErrorEx")
	if err != nil {
		return nil
	}
	var out []*cim.Instance
	for _, text := range res.Out.Strs("Errors") {
		if e, err := cim.ParseInstance(text); err == nil && e.Str("Message") != "" {
			out = append(out, e)
		}
	}
	return out
}

// noDelegation reports whether the source host has to log in on the target with
// the caller's own credentials, which it has not got. A login over the
// network brings none, except one that sends the password.
func (c *Config) noDelegation(settings *cim.Instance) bool {
	const credSSP = 0 // Msvm_VirtualSystemMigrationServiceSettingData.AuthenticationType
	if settings.Uint("AuthenticationType") != credSSP || settings.Str("AuthenticationType") == "" {
		return false
	}
	if c.Transport == TransportCOM {
		return c.Username != "" // of another host
	}
	return c.Auth != AuthBasic
}
