package wsman

import (
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// faultError makes a *cim.Error of a fault. WMI's own error code stands in
// three places, depending on the provider: as the code of a MSFT_WmiError, as
// __ExtendedStatus.StatusCode, or as the WSManFault's code.
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
	visit(detail, func(n *node) {
		switch n.name {
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
	return e
}

func visit(n *node, f func(*node)) {
	f(n)
	for _, k := range n.kids {
		visit(k, f)
	}
}

// setHResult keeps a code that is a WMI or a Windows error; WinRM's own codes
// (0x8033xxxx) say no more than the fault's subcode does.
func setHResult(e *cim.Error, s string) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		// Some providers print the code as a signed number.
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
