package xapisim

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// endpoint serves one host: JSON-RPC on /jsonrpc, XML-RPC on / and /RPC2 (xen-api doc/content/xen-api/wire-protocol.md).
type endpoint struct {
	s     *Sim
	index int
}

// ServeHTTP answers one call.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "only POST is simulated", http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var in request
	var answer func(any, *xapidata.Type, error) []byte
	ctype := "text/xml"
	switch {
	case r.URL.Path == "/jsonrpc" && !e.s.cfg.NoJSONRPC:
		ctype = "application/json"
		in, err = parseJSON(body)
		answer = in.jsonAnswer
	case r.URL.Path == "/", r.URL.Path == "/RPC2":
		in, err = parseXML(body)
		answer = xmlAnswer
	default:
		err = errors.New("Not_found") // the words are believed
	}
	w.Header().Set("Cache-Control", "no-cache, no-store")
	if err != nil { // a broken request gets HTTP 500 and a page, never an API error (seen from a real xapi)
		page := "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. " +
			"If the problem persists, please contact your support representative.<h1> Additional information </h1>" +
			strings.ReplaceAll(strings.ReplaceAll(html.EscapeString(err.Error()), "&#39;", "&apos;"), "&#34;", "&quot;") + "</body></html>"
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, page)
		return
	}
	var out []byte
	err = e.s.dispatch(r.Context(), e.index, in.method, in.params, func(v any, t *xapidata.Type, err error) { out = answer(v, t, err) })
	if errors.Is(err, errDrop) {
		if h, ok := w.(http.Hijacker); ok {
			if conn, _, err := h.Hijack(); err == nil {
				_ = conn.Close()
			}
		}
		return
	}
	w.Header().Set("Content-Type", ctype)
	w.Header().Set("Content-Length", strconv.Itoa(len(out)))
	_, _ = w.Write(out)
}

type request struct {
	method string
	params []any
	id     json.RawMessage
	v2     bool
}

// parseJSON reads one call. Batches and a missing or null id are malformed. Params that are an object are one parameter (recorded).
func parseJSON(body []byte) (request, error) {
	var top json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		return request{}, fmt.Errorf(`Yojson.Json_error("Line 1, bytes 0-%d:\nInvalid token '%s'")`, len(body), body)
	}
	malformed := errors.New(`Jsonrpc.Malformed_method_request("Invalid request body")`)
	var q struct {
		Version *string         `json:"jsonrpc"`
		Method  *string         `json:"method"`
		Params  json.RawMessage `json:"params"`
		ID      json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(top, &q); err != nil || q.Method == nil {
		return request{}, malformed
	}
	if len(q.ID) == 0 || string(q.ID) == "null" || q.ID[0] == '{' || q.ID[0] == '[' {
		return request{}, errors.New(`Jsonrpc.Malformed_method_request("Invalid field id")`) // words believed
	}
	in := request{method: *q.Method, id: q.ID, v2: q.Version != nil && *q.Version == "2.0"}
	if q.Params == nil {
		return in, nil
	}
	d := json.NewDecoder(bytes.NewReader(q.Params))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return request{}, malformed
	}
	switch v := fromJSON(v).(type) {
	case []any:
		in.params = v
	case map[string]any:
		in.params = []any{v}
	default:
		return request{}, malformed
	}
	return in, nil
}

// fromJSON distinguishes ints from floats by the notation, according to the wire protocol.
func fromJSON(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = fromJSON(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = fromJSON(v[k])
		}
	}
	return v
}

func (q request) jsonAnswer(v any, _ *xapidata.Type, err error) []byte {
	b := make([]byte, 0, sizeHint(v))
	var f *Failure
	failed := errors.As(err, &f)
	list := []any{}
	if failed {
		list = append(list, f.Code)
		list = append(list, anys(f.Params)...)
	}
	if q.v2 {
		b = append(b, `{"jsonrpc":"2.0",`...)
		if failed {
			b = append(b, `"error":{"code":1,"message":`...)
			b = appendJSONString(b, f.Code)
			b = append(b, `,"data":`...)
			b = appendJSON(b, list[1:])
			b = append(b, '}')
		} else {
			b = append(b, `"result":`...)
			b = appendJSON(b, v)
		}
	} else {
		b = append(b, `{"result":`...)
		if failed {
			b = append(b, `null,"error":`...)
			b = appendJSON(b, list)
		} else {
			b = appendJSON(b, v)
			b = append(b, `,"error":null`...)
		}
	}
	b = append(b, `,"id":`...)
	b = append(b, q.id...)
	return append(b, '}')
}

func xmlAnswer(v any, t *xapidata.Type, err error) []byte {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>`)
	if f := (*Failure)(nil); errors.As(err, &f) {
		b.WriteString(`Failure</value></member><member><name>ErrorDescription</name>`)
		xmlValue(&b, append([]any{f.Code}, anys(f.Params)...), nil)
	} else {
		b.WriteString(`Success</value></member><member><name>Value</name>`)
		xmlValue(&b, v, t)
	}
	b.WriteString(`</member></struct></value></param></params></methodResponse>`)
	return []byte(b.String())
}

// xmlNode is an element with its children, enough for XML-RPC.
type xmlNode struct {
	XMLName xml.Name
	Text    string    `xml:",chardata"`
	Kids    []xmlNode `xml:",any"`
}

func (n *xmlNode) kid(name string) *xmlNode {
	for i := range n.Kids {
		if n.Kids[i].XMLName.Local == name {
			return &n.Kids[i]
		}
	}
	return nil
}

func parseXML(body []byte) (request, error) {
	var n xmlNode
	bad := errors.New(`Xmlm.Error(1:1, "expected root element")`)
	if err := xml.Unmarshal(body, &n); err != nil || n.XMLName.Local != "methodCall" || n.kid("methodName") == nil {
		return request{}, bad
	}
	in := request{method: strings.TrimSpace(n.kid("methodName").Text)}
	if ps := n.kid("params"); ps != nil {
		for i := range ps.Kids {
			if v := ps.Kids[i].kid("value"); v != nil {
				in.params = append(in.params, fromXML(v))
			}
		}
	}
	return in, nil
}

func fromXML(n *xmlNode) any {
	if len(n.Kids) == 0 {
		return n.Text
	}
	k := &n.Kids[0]
	switch text := strings.TrimSpace(k.Text); k.XMLName.Local {
	case "int", "i4", "i8":
		v, _ := strconv.ParseInt(text, 10, 64)
		return v
	case "boolean":
		return text == "1" || text == "true"
	case "double":
		v, _ := strconv.ParseFloat(text, 64)
		return v
	case "dateTime.iso8601":
		return date(text)
	case "nil":
		return nil
	case "array":
		out := []any{}
		if d := k.kid("data"); d != nil {
			for i := range d.Kids {
				out = append(out, fromXML(&d.Kids[i]))
			}
		}
		return out
	case "struct":
		out := map[string]any{}
		for i := range k.Kids {
			name, value := k.Kids[i].kid("name"), k.Kids[i].kid("value")
			if name != nil && value != nil {
				out[name.Text] = fromXML(value)
			}
		}
		return out
	}
	return k.Text
}
