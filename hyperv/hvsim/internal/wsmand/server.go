package wsmand

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	"github.com/google/uuid"
)

func messageID() string { return strings.ToUpper(uuid.NewString()) }

// Hooks let the simulation count operations and make them fail.
type Hooks struct {
	// Operation is called for each request after authentication. A status other than 0 is the HTTP answer; drop closes the
	// connection in the middle of the reply.
	Operation func(op string) (status int, drop bool)
}

// Server is the /wsman resource of one host. It is an http.Handler for authenticated requests.
type Server struct {
	wmi   wbem.Server
	hooks Hooks
	limit int // bytes of an envelope
	old   bool
	mu    sync.Mutex
	open  map[string]*enumeration
	order []string
}

// maxOpen is the number of enumerations that may be open at the same time; the oldest is closed [believed; WinRM limits
// operations per user].
const maxOpen = 1500

// New makes a server. limit is WinRM's MaxEnvelopeSizekb; old makes it write faults like WinRM 2.0.
func New(wmi wbem.Server, limitKB int, old bool, hooks Hooks) *Server {
	return &Server{wmi: wmi, hooks: hooks, limit: limitKB * 1024, old: old, open: map[string]*enumeration{}}
}

// maxRequest limits how much of a request is read. WinRM refuses more than its envelope limit.
const maxRequest = 16 << 20

// ServeHTTP answers one SOAP request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return
	}
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/soap+xml") {
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	status, reply, drop := s.Answer(body)
	if reply == "" {
		Refuse(w, status, drop)
		return
	}
	Write(w, "application/soap+xml;charset=UTF-8", status, []byte(reply), drop)
}

// Write sends a reply. With drop it sends half of it and closes the connection.
func Write(w http.ResponseWriter, contentType string, status int, reply []byte, drop bool) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(reply)))
	w.WriteHeader(status)
	if drop {
		_, _ = w.Write(reply[:len(reply)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(reply)
}

// Refuse sends a status without a reply. With drop it closes the connection instead.
func Refuse(w http.ResponseWriter, status int, drop bool) {
	if drop {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
}

// Answer processes a request and returns the HTTP status and the reply.
func (s *Server) Answer(body []byte) (status int, reply string, drop bool) {
	n, err := parse(bytes.NewReader(body))
	if err != nil || n.name.Local != "Envelope" || n.name.Space != nsSOAP {
		return http.StatusBadRequest, (&fault{sub: "w:SchemaValidationError", code: codeSchema, reason: "The SOAP XML in the message does not match the corresponding XML schema definition."}).xml("", s.wmi.Host(), s.old), false
	}
	bd := n.kid(nsSOAP, "Body")
	if bd.kid(nsIdent, "Identify") != nil {
		return http.StatusOK, `<s:Envelope xmlns:s="` + nsSOAP + `"><s:Header/><s:Body><wsmid:IdentifyResponse xmlns:wsmid="` + nsIdent + `"><wsmid:ProtocolVersion>` + nsWSMan +
			`</wsmid:ProtocolVersion><wsmid:ProductVendor>Microsoft Corporation</wsmid:ProductVendor><wsmid:ProductVersion>OS: 10.0.20348 SP: 0.0 Stack: 3.0</wsmid:ProductVersion></wsmid:IdentifyResponse></s:Body></s:Envelope>`, false
	}
	h := n.kid(nsSOAP, "Header")
	q := &request{
		srv: s, body: bd, action: h.kid(nsAddr, "Action").str(), id: h.kid(nsAddr, "MessageID").str(),
		uri: h.kid(nsWSMan, "ResourceURI").str(), max: s.limit,
	}
	q.keys, q.keyNS = selectors(h.kid(nsWSMan, "SelectorSet"), s.wmi.Host())
	if m, err := strconv.Atoi(h.kid(nsWSMan, "MaxEnvelopeSize").str()); err == nil && m > 0 {
		if m < 8192 { // [D: DSP0226 R13.1: below 8192 a service faults]
			f := &fault{sub: "w:EncodingLimit", code: codeEnvelope, reason: "The MaxEnvelopeSize is too small."}
			return http.StatusInternalServerError, f.xml(q.id, s.wmi.Host(), s.old), false
		}
		q.max = min(m, s.limit)
	}
	for _, k := range h.kids {
		if mu := k.attr("mustUnderstand"); (mu == "true" || mu == "1") && !understood[k.name.Local] {
			f := &fault{sub: "s:MustUnderstand", code: codeUnknownHeaders, reason: "The WS-Management service cannot process the header " + k.name.Local + "."}
			return http.StatusInternalServerError, f.xml(q.id, s.wmi.Host(), s.old), false
		}
	}
	op, do := q.operation()
	st, drop := 0, false
	if s.hooks.Operation != nil {
		st, drop = s.hooks.Operation(op)
	}
	if st != 0 {
		return st, "", false
	}
	var out string
	if do == nil {
		err = &fault{sub: "a:ActionNotSupported", code: codeAction, reason: "The action is not supported by the service."}
	} else if len(body) > s.limit {
		err = &fault{sub: "w:EncodingLimit", code: codeEnvelope, reason: "The WS-Management service cannot process the request. The request is larger than MaxEnvelopeSize."}
	} else {
		out, err = do()
	}
	if err != nil {
		var f *fault
		var we *wbem.Error
		switch {
		case errors.As(err, &f):
		case errors.As(err, &we) && we.Code == wbem.RPCFailed: // Dropped
			return 0, "", true
		case errors.As(err, &we):
			f = q.fromWBEM(we)
		default:
			f = &fault{sub: "w:InternalError", code: 0x80338000, reason: err.Error()}
		}
		return http.StatusInternalServerError, f.xml(q.id, s.wmi.Host(), s.old), drop
	}
	return http.StatusOK, out, drop
}

// understood are the headers of WS-Management and WS-Addressing.
var understood = map[string]bool{"To": true, "ResourceURI": true, "ReplyTo": true, "Action": true, "MaxEnvelopeSize": true, "MessageID": true,
	"Locale": true, "DataLocale": true, "SessionId": true, "OperationID": true, "SequenceId": true, "OperationTimeout": true, "SelectorSet": true,
	"OptionSet": true, "RequestEPR": true, "FragmentTransfer": false}

type request struct {
	srv    *Server
	body   *node
	action string
	id     string
	uri    string
	keys   []cimx.KeyValue
	keyNS  string
	max    int
	wql    string // of an enumeration
}

// operation returns the name of the request and the function for it, or nil for an unknown action.
func (q *request) operation() (string, func() (string, error)) {
	switch q.action {
	case nsEnum + "/Enumerate":
		return "Enumerate", q.enumerate
	case nsEnum + "/Pull":
		return "Pull", q.pull
	case nsEnum + "/Release":
		return "Release", q.release
	case nsXfer + "/Get":
		return "Get", q.get
	case nsXfer + "/Put":
		return "Put", q.put
	}
	if m, ok := strings.CutPrefix(q.action, q.uri+"/"); ok && q.uri != "" && !strings.Contains(m, "/") {
		return "Invoke", func() (string, error) { return q.invoke(m) }
	}
	return "Unknown", nil
}

// resource returns the namespace and class of the request.
func (q *request) resource() (ns, class string, err error) {
	ns, class, ok := splitURI(q.uri)
	if !ok {
		return "", "", &fault{sub: "a:DestinationUnreachable", code: codeNotFound, reason: "The WS-Management service cannot process the request. The resource URI is not valid.", detail: "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/InvalidResourceURI"}
	}
	if q.keyNS != "" {
		ns = q.keyNS
	}
	return ns, class, nil
}

func (q *request) reply(body string) (string, error) {
	out := envelope(q.id, q.action+"Response", body)
	if len(out) > q.max {
		return "", &fault{sub: "w:EncodingLimit", code: codeEnvelope, reason: "The response that the WS-Management service computed exceeds the maximum envelope size in the request."}
	}
	return out, nil
}

func (q *request) ref() (cimx.Ref, string, error) {
	ns, class, err := q.resource()
	return cimx.Ref{Class: class, Keys: q.keys}, ns, err
}

func (q *request) get() (string, error) {
	r, ns, err := q.ref()
	if err != nil {
		return "", err
	}
	i, err := q.srv.wmi.Get(ns, r)
	if err != nil {
		return "", err
	}
	var w writer
	w.instance(i)
	return q.reply(w.String())
}

func (q *request) put() (string, error) {
	r, ns, err := q.ref()
	if err != nil {
		return "", err
	}
	if len(q.body.kids) != 1 || q.body.kids[0].name.Local != r.Class {
		return "", &fault{sub: "w:SchemaValidationError", code: codeSchema, reason: "The body is not an instance of the class."}
	}
	c, err := q.srv.wmi.Class(ns, r.Class)
	if err != nil {
		return "", err
	}
	props := map[string]any{}
	for _, k := range q.body.kids[0].kids {
		n := c.Prop(k.name.Local)
		if n < 0 {
			return "", &fault{sub: "w:SchemaValidationError", code: codeSchema, reason: "The property " + k.name.Local + " is not part of the class."}
		}
		if v := argument(k, q.srv.wmi.Host()); v != nil {
			if c.Props[n].Type.Array {
				l, _ := props[k.name.Local].([]any)
				v = append(l, v)
			}
			props[k.name.Local] = v
		}
	}
	if err := q.srv.wmi.Put(ns, r, props); err != nil {
		return "", err
	}
	return q.get()
}

// invoke calls a method: <p:Method_INPUT> with parameters in the class's namespace, arrays as repeated elements [L; MS-WSMV].
func (q *request) invoke(method string) (string, error) {
	r, ns, err := q.ref()
	if err != nil {
		return "", err
	}
	bad := func(why string) (string, error) {
		return "", &fault{sub: "w:SchemaValidationError", code: codeSchema, reason: "The SOAP XML in the message does not match the corresponding XML schema definition: " + why}
	}
	args := map[string]any{}
	if len(q.body.kids) > 0 {
		in := q.body.kids[0]
		if in.name.Local != method+"_INPUT" || in.name.Space != q.uri {
			return bad("element " + in.name.Local)
		}
		c, err := q.srv.wmi.Class(ns, r.Class)
		if err != nil {
			return "", err
		}
		m := c.Method(method)
		if m == nil {
			return "", wbem.Errorf(wbem.InvalidMethod, "")
		}
		for _, k := range in.kids {
			p := m.Param(k.name.Local)
			if p == nil || !p.In || p.Name != k.name.Local || k.name.Space != q.uri {
				return bad("parameter " + k.name.Local)
			}
			v := argument(k, q.srv.wmi.Host())
			if p.Type.Array && v != nil {
				l, _ := args[p.Name].([]any)
				args[p.Name] = append(l, v)
				continue
			}
			if _, twice := args[p.Name]; twice {
				return bad("parameter " + p.Name + " is repeated")
			}
			args[p.Name] = v
		}
		if rv := namedReference(args); rv != 0 {
			return q.output(&wbem.Output{Method: m, Return: rv})
		}
	}
	out, err := q.srv.wmi.Invoke(ns, r, method, args)
	if err != nil {
		return "", err
	}
	return q.output(out)
}

// namedReference refuses what a host refused in the values of embedded instances: &amp; as a failure, &lt; as an invalid
// parameter. The host accepted numeric references and &gt; [r4sd/go-wsman: its notes of what a client edition refused; seen with
// ModifySystemSettings]. COM accepts all of them: SWbemObject.GetText_ writes names [O].
func namedReference(in map[string]any) uint32 {
	for _, v := range in {
		all, ok := v.([]any)
		if !ok {
			all = []any{v}
		}
		for _, x := range all {
			switch s, _ := x.(string); {
			case !strings.Contains(s, "<INSTANCE"):
			case strings.Contains(s, "&amp;"):
				return 32768
			case strings.Contains(s, "&lt;"):
				return 32773
			}
		}
	}
	return 0
}

// output writes what a method returned.
func (q *request) output(out *wbem.Output) (string, error) {
	var w writer
	w.WriteString(`<p:` + out.Method.Name + `_OUTPUT xmlns:p="` + q.uri + `">`)
	for _, p := range out.Method.Params {
		if p.Out {
			w.value("p:"+p.Name, p.Type, out.Values[p.Name], "cim:")
		}
	}
	w.WriteString(`<p:ReturnValue>` + itoa(out.Return) + `</p:ReturnValue></p:` + out.Method.Name + `_OUTPUT>`)
	return q.reply(w.String())
}

// remember keeps an enumeration open.
func (s *Server) remember(e *enumeration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := "uuid:" + messageID()
	s.open[id] = e
	s.order = append(s.order, id)
	if len(s.order) > maxOpen {
		delete(s.open, s.order[0])
		s.order = s.order[1:]
	}
	return id
}

// take returns an enumeration and closes it. A caller that continues with it remembers it again.
func (s *Server) take(id string) *enumeration {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.open[id]
	if e != nil {
		delete(s.open, id)
		s.order = slices.DeleteFunc(s.order, func(x string) bool { return x == id })
	}
	return e
}
