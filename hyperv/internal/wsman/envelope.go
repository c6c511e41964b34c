// Package wsman is the WS-Management transport of package cim: WQL
// enumerations, Get, Put and method calls over HTTP and HTTPS, for the WinRM
// service of Windows (DSP0226, DSP0227 and Microsoft's MS-WSMV).
package wsman

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// Namespaces and actions.
const (
	nsSOAP  = "http://www.w3.org/2003/05/soap-envelope"
	nsAddr  = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMan = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsEnum  = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsXSI   = "http://www.w3.org/2001/XMLSchema-instance"

	actGet       = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"
	actPut       = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put"
	actEnumerate = nsEnum + "/Enumerate"
	actPull      = nsEnum + "/Pull"
	actRelease   = nsEnum + "/Release"

	dialectWQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
)

const envelopeStart = `<s:Envelope xmlns:s="` + nsSOAP + `" xmlns:a="` + nsAddr + `" xmlns:w="` + nsWSMan + `" xmlns:n="` + nsEnum + `" xmlns:xsi="` + nsXSI + `"><s:Header><a:To>`

// message is one request before it is wrapped in an envelope.
type message struct {
	resource  string
	action    string
	selectors string
	body      string
}

func (c *Client) envelope(m message) string {
	var b strings.Builder
	b.Grow(len(m.body) + 1500)
	b.WriteString(envelopeStart)
	b.WriteString(cim.Escape(c.url))
	b.WriteString(`</a:To><w:ResourceURI s:mustUnderstand="true">`)
	b.WriteString(cim.Escape(m.resource))
	b.WriteString(`</w:ResourceURI><a:ReplyTo><a:Address s:mustUnderstand="true">` + cim.Anonymous + `</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">`)
	b.WriteString(cim.Escape(m.action))
	b.WriteString(`</a:Action><w:MaxEnvelopeSize s:mustUnderstand="true">`)
	b.WriteString(strconv.Itoa(c.maxEnvelope))
	b.WriteString(`</w:MaxEnvelopeSize><a:MessageID>`)
	b.WriteString(messageID())
	b.WriteString(`</a:MessageID><w:Locale xml:lang="en-US" s:mustUnderstand="false"/><w:OperationTimeout>`)
	b.WriteString(xmlDuration(c.timeout))
	b.WriteString(`</w:OperationTimeout>`)
	if m.selectors != "" {
		b.WriteString("<w:SelectorSet>" + m.selectors + "</w:SelectorSet>")
	}
	b.WriteString(`</s:Header><s:Body>`)
	b.WriteString(m.body)
	b.WriteString(`</s:Body></s:Envelope>`)
	return b.String()
}

func xmlDuration(d time.Duration) string { return fmt.Sprintf("PT%.3fS", d.Seconds()) }

func messageID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("uuid:%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func enumerateBody(wql string, max int) string {
	return `<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>` + strconv.Itoa(max) + `</w:MaxElements><w:Filter Dialect="` + dialectWQL + `">` +
		cim.Escape(wql) + `</w:Filter></n:Enumerate>`
}

func pullBody(context string, max int) string {
	return `<n:Pull><n:EnumerationContext>` + cim.Escape(context) + `</n:EnumerationContext><n:MaxElements>` + strconv.Itoa(max) + `</n:MaxElements></n:Pull>`
}

func releaseBody(context string) string {
	return `<n:Release><n:EnumerationContext>` + cim.Escape(context) + `</n:EnumerationContext></n:Release>`
}

// invokeBody formats a method call. Arrays are repeated elements, references
// are endpoint references, embedded instances are CIM-XML text.
func invokeBody(uri, method string, args []cim.Arg) string {
	var b strings.Builder
	b.WriteString(`<p:` + method + `_INPUT xmlns:p="` + cim.Escape(uri) + `">`)
	for _, a := range args {
		switch v := a.Value.(type) {
		case nil:
		case cim.Ref:
			b.WriteString(`<p:` + a.Name + `>` + v.EPR() + `</p:` + a.Name + `>`)
		case []cim.Ref:
			for _, r := range v {
				b.WriteString(`<p:` + a.Name + `>` + r.EPR() + `</p:` + a.Name + `>`)
			}
		default:
			text, typ, _ := cim.Text(v)
			writeTexts(&b, a.Name, typ, text)
		}
	}
	b.WriteString(`</p:` + method + `_INPUT>`)
	return b.String()
}

func writeTexts(b *strings.Builder, name, typ string, text []string) {
	for _, s := range text {
		if typ == "boolean" {
			s = strings.ToLower(s) // xs:boolean
		}
		b.WriteString(`<p:` + name + `>` + cim.Escape(s) + `</p:` + name + `>`)
	}
}

func putBody(uri, class string, props []cim.Prop) string {
	var b strings.Builder
	b.WriteString(`<p:` + class + ` xmlns:p="` + cim.Escape(uri) + `">`)
	for _, p := range props {
		writeTexts(&b, p.Name, p.Type, p.Value.Strings())
	}
	b.WriteString(`</p:` + class + `>`)
	return b.String()
}
