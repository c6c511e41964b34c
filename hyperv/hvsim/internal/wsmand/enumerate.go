package wsmand

import (
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// enumeration is an open result.
type enumeration struct {
	fields []string // nil for whole instances
	mode   string   // "", EnumerateEPR, EnumerateObjectAndEPR
	items  []*cimx.Instance
}

func (q *request) enumerate() (string, error) {
	ns, class, err := q.resource()
	if err != nil {
		return "", err
	}
	in := q.body.kid(nsEnum, "Enumerate")
	if in == nil {
		return "", &fault{sub: "w:SchemaValidationError", code: codeSchema, reason: "The body has no Enumerate element."}
	}
	query, err := q.query(in, ns, class)
	if err != nil {
		return "", err
	}
	e := &enumeration{mode: in.kid(nsWSMan, "EnumerationMode").str()}
	switch e.mode {
	case "", "EnumerateEPR", "EnumerateObjectAndEPR":
	default:
		return "", &fault{sub: "w:UnsupportedFeature", code: codeSchema, reason: "The enumeration mode is not supported.", detail: "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/EnumerationMode"}
	}
	res, err := q.srv.wmi.Query(ns, query)
	if err != nil {
		return "", err
	}
	e.items = res.Instances
	if res.Query.Kind == wql.Select {
		e.fields = res.Query.Fields
	}
	if in.kid(nsWSMan, "OptimizeEnumeration") == nil {
		return q.reply(`<n:EnumerateResponse><n:EnumerationContext>` + q.srv.remember(e) + `</n:EnumerationContext></n:EnumerateResponse>`)
	}
	return q.page(e, "EnumerateResponse", "w", elements(in.kid(nsWSMan, "MaxElements"), 1)) // default 1 [D: DSP0226 OptimizeEnumeration]
}

// query makes the WQL text of an enumeration: from a WQL filter, from a selector filter, an association filter, or none.
func (q *request) query(in *node, ns, class string) (string, error) {
	f := in.kid(nsWSMan, "Filter")
	if f == nil {
		f = in.kid(nsEnum, "Filter")
	}
	if f == nil {
		if class == "*" {
			return "", &fault{sub: "n:CannotProcessFilter", code: codeFilter, reason: "The resource URI ends in * and there is no filter."}
		}
		return "SELECT * FROM " + class, nil
	}
	switch d := f.attr("Dialect"); d {
	case wqlDialect:
		q.wql = f.str()
		if class != "*" {
			// [D: "Enumerating or Listing All of the Instances of a Resource": a WQL filter goes with a URI that ends in *]
			return "", &fault{sub: "n:CannotProcessFilter", code: codeFilter, reason: "A WQL filter needs a resource URI that ends in *."}
		}
		return f.str(), nil
	case selDialect:
		keys, _ := selectors(f.kid(nsWSMan, "SelectorSet"), q.srv.wmi.Host())
		if len(keys) == 0 {
			return "", &fault{sub: "n:CannotProcessFilter", code: codeFilter, reason: "The selector filter is empty."}
		}
		var b strings.Builder
		b.WriteString("SELECT * FROM " + class + " WHERE ")
		for n, k := range keys {
			if n > 0 {
				b.WriteString(" AND ")
			}
			b.WriteString(k.Name + " = '" + quote(k.Value) + "'")
		}
		return b.String(), nil
	case assDialect:
		return q.associationQuery(f)
	default:
		return "", &fault{sub: "n:FilterDialectRequestedUnavailable", code: codeDialect, reason: "The filter dialect " + d + " is not supported."}
	}
}

func quote(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) }

// associationQuery turns the association filter of DSP0227 into WQL.
func (q *request) associationQuery(f *node) (string, error) {
	bad := &fault{sub: "n:CannotProcessFilter", code: codeFilter, reason: "The association filter is not valid."}
	kind := "ASSOCIATORS"
	a := f.kid(nsAssoc, "AssociatedInstances")
	if a == nil {
		kind = "REFERENCES"
		a = f.kid(nsAssoc, "AssociationInstances")
	}
	o := a.kid(nsAssoc, "Object")
	if o == nil {
		return "", bad
	}
	if e := o.kid(nsAddr, "EndpointReference"); e != nil {
		o = e
	}
	r, ok := readEPR(o, "")
	if !ok {
		return "", bad
	}
	text := kind + " OF {" + r.RelPath() + "}"
	var cl []string
	for _, k := range [][2]string{{"AssociationClassName", "AssocClass"}, {"Role", "Role"}, {"ResultClassName", "ResultClass"}, {"ResultRole", "ResultRole"}} {
		if v := a.kid(nsAssoc, k[0]).str(); v != "" {
			cl = append(cl, k[1]+" = "+v)
		}
	}
	if len(cl) > 0 {
		text += " WHERE " + strings.Join(cl, " ")
	}
	return text, nil
}

// maxItems is WinRM's limit of a page (believed to be 32000 in all).
const maxItems = 32000

func elements(n *node, def int) int {
	if m, err := strconv.Atoi(n.str()); err == nil && m > 0 {
		return min(m, maxItems)
	}
	return def
}

func (q *request) pull() (string, error) {
	in := q.body.kid(nsEnum, "Pull")
	e := q.srv.take(in.kid(nsEnum, "EnumerationContext").str())
	if e == nil {
		return "", &fault{sub: "n:InvalidEnumerationContext", code: codeContext, reason: "The WS-Management service cannot process the request because the enumeration context is not valid."}
	}
	if f, ok := q.srv.wmi.(interface{ PullFault() error }); ok {
		if err := f.PullFault(); err != nil {
			return "", err
		}
	}
	return q.page(e, "PullResponse", "n", elements(in.kid(nsEnum, "MaxElements"), 1)) // default 1 [D: WS-Enumeration]
}

func (q *request) release() (string, error) {
	if q.srv.take(q.body.kid(nsEnum, "Release").kid(nsEnum, "EnumerationContext").str()) == nil {
		return "", &fault{sub: "n:InvalidEnumerationContext", code: codeContext, reason: "The enumeration context is not valid."}
	}
	return q.reply("")
}

// page writes as many items as the client requested and the envelope holds.
func (q *request) page(e *enumeration, tag, prefix string, n int) (string, error) {
	var w writer
	room := q.max - 2048 // for the envelope around
	k := 0
	for ; k < len(e.items) && k < n; k++ {
		before := w.Len()
		q.item(&w, e, e.items[k])
		if w.Len() > room {
			if k == 0 {
				return "", &fault{sub: "w:EncodingLimit", code: codeEnvelope, reason: "The response that the WS-Management service computed exceeds the maximum envelope size in the request."}
			}
			s := w.String()[:before]
			w.Reset()
			w.WriteString(s)
			break
		}
	}
	e.items = e.items[k:]
	ctx, end := `<n:EnumerationContext/>`, `<`+prefix+`:EndOfSequence/>`
	if len(e.items) > 0 {
		ctx, end = `<n:EnumerationContext>`+q.srv.remember(e)+`</n:EnumerationContext>`, ""
	}
	return q.reply(`<n:` + tag + `>` + ctx + `<` + prefix + `:Items>` + w.String() + `</` + prefix + `:Items>` + end + `</n:` + tag + `>`)
}

func (q *request) item(w *writer, e *enumeration, i *cimx.Instance) {
	ref := func() { w.WriteString(`<a:EndpointReference>` + epr(i.Ref()) + `</a:EndpointReference>`) }
	switch {
	case e.mode == "EnumerateEPR":
		ref()
	case e.mode == "EnumerateObjectAndEPR":
		w.WriteString("<w:Item>")
		w.instance(i)
		ref()
		w.WriteString("</w:Item>")
	case e.fields != nil:
		w.fragment(i, e.fields)
	default:
		w.instance(i)
	}
}
