package wsman

import (
	"context"
	"errors"
	"regexp"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

var fromClass = regexp.MustCompile(`(?i)\sFROM\s+(\w+)`)

// missing finds out why a query failed. WinRM 2.0 has one fault for a query
// that is wrong, a missing class and a missing namespace, and its text is in
// the host's language. A missing resource has a fault of its own.
func (c *Client) missing(ctx context.Context, ns, wql string, err error) error {
	var e *cim.Error
	m := fromClass.FindStringSubmatch(wql)
	if !errors.As(err, &e) || e.HResult != 0 || e.Fault != "CannotProcessFilter" || m == nil || c.there(ctx, ns, m[1]) {
		return err
	}
	e.HResult = cim.WBEMInvalidClass
	if !c.there(ctx, ns, "__NAMESPACE") { // a class that every namespace has
		e.HResult = cim.WBEMInvalidNamespace
	}
	return err
}

// there reports whether a namespace has a class. It returns true in doubt.
func (c *Client) there(ctx context.Context, ns, class string) bool {
	uri := cim.WMIPrefix + ns + "/" + class
	rep, err := c.do(ctx, message{resource: uri, action: actEnumerate, body: `<n:Enumerate><w:EnumerationMode>EnumerateEPR</w:EnumerationMode></n:Enumerate>`})
	var e *cim.Error
	if errors.As(err, &e) {
		return e.Fault != "DestinationUnreachable"
	}
	if err == nil && rep.context != "" {
		c.release(ctx, uri, rep.context)
	}
	return true
}
