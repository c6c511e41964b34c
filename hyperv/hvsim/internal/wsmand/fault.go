package wsmand

import (
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
)

// fault is a SOAP fault of WS-Management.
type fault struct {
	sub    string // subcode with prefix: w:, a:, n:
	code   uint32 // WSManFault Code
	reason string
	detail string // URI of the fault detail
	wmi    bool   // WMI received the call and refused it
	cim    uint32 // CIMStatusCode of a refusal by WMI
	hr     uint32 // code in __ExtendedStatus; 0 is nil
	text   string // WMI's message
	query  string
}

func (f *fault) Error() string { return f.sub + ": " + f.reason }

// Codes of WSManFault; Windows prints them as decimal [D: wsmerror.h].
const (
	codeNotFound       = 2150858752 // 0x80338000 ERROR_WSMAN_RESOURCE_NOT_FOUND
	codeSchema         = 2150858793 // 0x80338029 ERROR_WSMAN_SCHEMA_VALIDATION_ERROR
	codeFilter         = 2150858778 // 0x8033801A ERROR_WSMAN_CANNOT_PROCESS_FILTER
	codeSelectors      = 2150859002 // 0x803380FA ERROR_WSMAN_INVALID_SELECTORS: selectors not valid for the resource
	codeDialect        = 2150858760 // 0x80338008 filter dialect not supported
	codeContext        = 2150858763 // 0x8033800B ERROR_WSMAN_INVALID_ENUMERATION_CONTEXT
	codeAction         = 2150858754 // 0x80338002 ERROR_WSMAN_ACTION_NOT_SUPPORTED
	codeEnvelope       = 2150858863 // 0x8033806F ERROR_WSMAN_ENVELOPE_TOO_LARGE
	codeInvalidParam   = 2150858811 // 0x8033803B invalid parameter for the method
	codeQuota          = 2150859173 // 0x803381A5 a quota of the user is exceeded
	codeAccessDenied   = 5
	codeUnknownHeaders = 2150858832 // 0x80338050 header not understood
)

const cannot = "The WS-Management service cannot process the request. "

// refusals are the forms in which WinRM passes on refusals by WMI: subcode, code, CIM status code and text.
//
// Missing class by WQL, __ExtendedStatus without a StatusCode and the form of MSFT_WmiError are recorded [WinRb/WinRM,
// spec/stubs/responses]; so is the missing instance [Microsoft's SCX tests against 2012 R2]. CIM status codes 3 and 5 with these
// numbers are those that dataplat/dbatools and candlepin/virt-who look for. Everything else is believed.
var refusals = map[uint32]fault{
	wbem.NotFound:          {sub: "a:DestinationUnreachable", code: codeNotFound, cim: 6, reason: cannot + "The service cannot find the resource identified by the resource URI and selectors."},
	wbem.InvalidNamespace:  {sub: "a:DestinationUnreachable", code: codeNotFound, cim: 3, reason: cannot + "The CIM namespace is invalid."},
	wbem.InvalidClass:      {sub: "a:DestinationUnreachable", code: codeNotFound, cim: 5, reason: cannot + "The specified class does not exist in the given namespace."},
	wbem.InvalidQuery:      {sub: "n:CannotProcessFilter", code: codeFilter, cim: 15, reason: "The data source could not process the filter. The filter might be missing or it might be invalid. Change the filter and try the request again."},
	wbem.AccessDenied:      {sub: "w:AccessDenied", code: codeAccessDenied, cim: 2, reason: "Access is denied."},
	wbem.QuotaViolation:    {sub: "w:QuotaLimit", code: codeQuota, cim: 27, reason: cannot + "The maximum number of concurrent operations for this user has been exceeded."},
	wbem.InvalidMethod:     {sub: "a:ActionNotSupported", code: codeAction, cim: 17, reason: cannot + "The action is not supported by the resource."},
	wbem.InvalidMethodArgs: {sub: "w:InvalidParameter", code: codeInvalidParam, cim: 4, reason: "A parameter for the operation is not valid."},
	wbem.InvalidParameter:  {sub: "w:InvalidParameter", code: codeInvalidParam, cim: 4, reason: "A parameter for the operation is not valid."},
	wbem.TypeMismatch:      {sub: "w:InvalidParameter", code: codeInvalidParam, cim: 13, reason: "A parameter for the operation is not valid."},
	wbem.InvalidObjectPath: {sub: "w:InvalidSelectors", code: codeSelectors, cim: 4, reason: cannot + "The request contained invalid selectors for the resource."},
	wbem.InvalidProperty:   {sub: "w:InvalidSelectors", code: codeSelectors, cim: 12, reason: cannot + "The request contained invalid selectors for the resource."},
}

// fromWBEM is WinRM's fault for a refusal by WMI.
func (q *request) fromWBEM(e *wbem.Error) *fault {
	f, known := refusals[e.Code]
	if !known {
		f = fault{sub: "w:InternalError", code: e.Code, cim: 1, hr: e.Code, reason: cannot + fmt.Sprintf("The WMI service or the WMI provider returned an unknown error: HRESULT 0x%08x", e.Code)}
	}
	f.wmi, f.text = true, e.Text
	if q.wql != "" && f.code == codeNotFound && e.Code != wbem.NotFound {
		// A query fails as a whole, and its fault does not name what is missing.
		f.sub, f.code, f.query = "n:CannotProcessFilter", codeFilter, q.wql
		f.text, f.reason = f.reason, refusals[wbem.InvalidQuery].reason
	}
	return &f
}

// xml writes the fault. An old host answers all of WMI's refusals like WinRM 2.0.
func (f *fault) xml(relates, machine string, old bool) string {
	action := nsWSMan + "/fault"
	switch f.sub[0] {
	case 'a':
		action = nsAddr + "/fault"
	case 'n':
		action = nsEnum + "/fault"
	default:
		action = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
	}
	var b strings.Builder
	b.WriteString(`<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>` + f.sub + `</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">` +
		cimx.Escape(f.reason) + `</s:Text></s:Reason><s:Detail>`)
	if f.detail != "" {
		b.WriteString(`<w:FaultDetail>` + f.detail + `</w:FaultDetail>`)
	}
	if f.wmi && !old && f.cim != 6 { // a missing instance was recorded in the old form on a newer host
		f.wmiError(&b)
	} else {
		f.wsmanFault(&b, machine)
	}
	b.WriteString(`</s:Detail></s:Fault>`)
	return envelope(relates, action, b.String())
}

// wmiError writes the detail of WinRM 3.0, of Windows Server 2012 and later.
func (f *fault) wmiError(b *strings.Builder) {
	text, code := f.text, f.code
	if text == "" {
		text = f.reason
	}
	if code == codeAccessDenied {
		code = 0x80070005
	}
	null := func(names string) {
		for _, n := range strings.Fields(names) {
			b.WriteString(`<p:` + n + ` xsi:type="cim:cimString" xsi:nil="true"/>`)
		}
	}
	b.WriteString(`<p:MSFT_WmiError b:IsCIM_Error="true" xmlns:b="` + nsAssoc + `" xmlns:p="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError" xsi:type="p:MSFT_WmiError_Type">` +
		`<p:CIMStatusCode xsi:type="cim:cimUnsignedInt">` + itoa(f.cim) + `</p:CIMStatusCode>`)
	null("CIMStatusCodeDescription ErrorSource")
	b.WriteString(`<p:ErrorSourceFormat xsi:type="cim:cimUnsignedShort">0</p:ErrorSourceFormat><p:ErrorType xsi:type="cim:cimUnsignedShort">0</p:ErrorType><p:Message xsi:type="cim:cimString">` +
		cimx.Escape(text) + `</p:Message><p:MessageID xsi:type="cim:cimString">` + fmt.Sprintf("HRESULT 0x%08x", code) + `</p:MessageID>`)
	null("OtherErrorSourceFormat OtherErrorType OwningEntity")
	b.WriteString(`<p:PerceivedSeverity xsi:type="cim:cimUnsignedShort">0</p:PerceivedSeverity><p:ProbableCause xsi:type="cim:cimUnsignedShort">0</p:ProbableCause>`)
	null("ProbableCauseDescription")
	b.WriteString(`<p:error_Category xsi:type="cim:cimUnsignedInt">30</p:error_Category><p:error_Code xsi:type="cim:cimUnsignedInt">` + itoa(code) +
		`</p:error_Code><p:error_Type xsi:type="cim:cimString">HRESULT</p:error_Type><p:error_WindowsErrorMessage xsi:type="cim:cimString">` + cimx.Escape(text) + `</p:error_WindowsErrorMessage></p:MSFT_WmiError>`)
}

// wsmanFault writes the detail of WinRM's own faults, and of WMI's before WinRM 3.0.
func (f *fault) wsmanFault(b *strings.Builder, machine string) {
	b.WriteString(`<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="` + itoa(f.code) + `" Machine="` + cimx.Escape(machine) + `"><f:Message>`)
	if f.wmi && f.code != codeAccessDenied {
		status := `<p:StatusCode xsi:nil="true"/>`
		if f.hr != 0 {
			status = `<p:StatusCode>` + itoa(f.hr) + `</p:StatusCode>`
		}
		operation := `<p:Operation>ExecMethod</p:Operation>`
		if f.query != "" {
			operation = `<p:Operation>ExecQuery</p:Operation><p:ParameterInfo>` + cimx.Escape(f.query) + `</p:ParameterInfo>`
		}
		b.WriteString(`<f:ProviderFault provider="WMI Provider" path="%systemroot%\system32\WsmWmiPl.dll"><f:WSManFault Code="` + itoa(f.code) + `" Machine="` + cimx.Escape(machine) +
			`"><f:Message>` + cimx.Escape(f.text) + `</f:Message></f:WSManFault><f:ExtendedError><p:__ExtendedStatus xmlns:p="` + wmiBase + `root/cimv2/__ExtendedStatus" xsi:type="p:__ExtendedStatus_Type">` +
			`<p:Description xsi:nil="true"/>` + operation + `<p:ProviderName>WinMgmt</p:ProviderName>` + status + `</p:__ExtendedStatus></f:ExtendedError></f:ProviderFault>`)
	} else {
		b.WriteString(cimx.Escape(f.reason))
	}
	b.WriteString(`</f:Message></f:WSManFault>`)
}
