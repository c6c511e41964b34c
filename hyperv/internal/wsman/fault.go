package wsman

import (
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// faultError makes a *cim.Error from a fault. WMI's own error code is in one
// of three places, depending on the provider: the code of a MSFT_WmiError,
// __ExtendedStatus.StatusCode, the WSManFault's code. If it is in none of
// them, the CIM status of a MSFT_WmiError has the same information.
func faultError(f *node) error {
	sub := f.find("Code", "Subcode", "Value").str()
	if i := strings.LastIndexByte(sub, ':'); i >= 0 {
		sub = sub[i+1:]
	}
	e := &cim.Error{Op: "wsman", Fault: sub, Detail: f.find("Reason", "Text").str()}
	detail := f.find("Detail")
	if detail == nil {
		return e
	}
	status := ""
	visit(detail, func(n *node) {
		switch n.name {
		case "CIMStatusCode":
			status = n.str()
		case "WSManFault":
			setHResult(e, n.get("Code"))
		case "StatusCode", "error_Code", "HRESULT":
			setHResult(e, n.str())
		case "ProviderFault":
			setHResult(e, n.get("Code"))
		case "Description", "Message":
			if s := n.str(); s != "" && !strings.Contains(e.Detail, s) {
				e.Detail = strings.TrimSpace(e.Detail + " " + s)
			}
		}
	})
	if n, err := strconv.Atoi(status); err == nil && e.HResult == 0 {
		e.HResult = statuses[n]
	}
	return e
}

// statuses are WMI's errors for the status codes of CIM (DSP0200, table of
// status codes). Codes that it lacks are no more exact than the fault's
// subcode.
var statuses = map[int]uint32{
	2: cim.WBEMAccessDenied, 3: cim.WBEMInvalidNamespace, 4: 0x80041008, 5: cim.WBEMInvalidClass, 6: cim.WBEMNotFound, 7: 0x8004100C, 11: 0x80041019,
	12: 0x80041031, 13: 0x80041005, 14: 0x80041018, 15: cim.WBEMInvalidQuery, 16: cim.WBEMInvalidMethod, 17: cim.WBEMInvalidMethod, 27: 0x80041048,
}

func visit(n *node, f func(*node)) {
	f(n)
	for _, k := range n.kids {
		visit(k, f)
	}
}

// setHResult keeps a code that is a WMI or a Windows error. WinRM's own codes
// (0x8033xxxx) add nothing to the fault's subcode.
func setHResult(e *cim.Error, s string) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		// Some providers write the code as a signed number.
		i, err := strconv.ParseInt(s, 0, 32)
		if err != nil {
			return
		}
		n = uint64(uint32(i))
	}
	switch h := uint32(n); {
	case h == 5:
		e.HResult = 0x80070005
	case h>>16 == 0x8004 || h>>16 == 0x8007:
		e.HResult = h
	}
}
