// Package hostile tests drivers against servers whose answers are meant to do
// harm: endless, nested without end, announced and never sent, or broken off.
package hostile

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Limit is the largest answer that a driver under test may read, and memory
// is what it may allocate for it in all, including this package's part.
const (
	Limit  = 4 << 20
	memory = 200 << 20
)

// answers begin with the first text and continue with the second one until
// the client has enough.
var answers = map[string][2]string{
	"bytes":           {"", "some text, and more\n"},
	"nested XML":      {"", "<a>"},
	"hidden XML":      {"<Envelope><Body>", `<a b="/>"><!-- </a> -->`},
	"empty XML":       {"<s:Envelope><s:Body>", "<a/>"},
	"SOAP":            {`<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><RetrieveServiceContentResponse xmlns="urn:vim25"><returnval>`, "<a>"},
	"WS-Management":   {`<s:Envelope><s:Body><n:EnumerateResponse><n:Items>`, "<a>"},
	"nested JSON":     {`{"jsonrpc":"2.0","id":1,"result":`, `[`},
	"empty JSON":      {`{"jsonrpc":"2.0","id":1,"result":[`, `{},`},
	"XML-RPC":         {`<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Value</name>`, `<value><array><data>`},
	"attributes":      {"<s:Envelope><s:Body><a", ` b=""`},
	"SOAP attributes": {`<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><RetrieveServiceContentResponse xmlns="urn:vim25"><returnval`, ` a=""`},
	"name spaces":     {"<s:Envelope><s:Body><a", ` xmlns:b=""`},
	"a name":          {"<s:Envelope><s:Body><", "aaaa"},
	"a value":         {`<s:Envelope><s:Body><a b="`, "aaaa"},
	"a text":          {"<s:Envelope><s:Body><a>", "aaaa"},
	"a JSON text":     {`{"jsonrpc":"2.0","id":1,"result":"`, "aaaa"},
	"a JSON name":     {`{"jsonrpc":"2.0","id":1,"`, "aaaa"},
	"a number":        {`{"jsonrpc":"2.0","id":1,"result":1`, "0000"},
	"spaces":          {"", "    "},
	"entities":        {`<!DOCTYPE x [<!ENTITY a "`, `aaaa`},
}

// Open runs open against each server. It must end with an error, within the
// limit of its context and with little memory. open closes only what it has
// made.
func Open(t *testing.T, open func(ctx context.Context, address string) (*hypervisor.Client, error)) {
	t.Helper()
	for name, text := range answers {
		try(t, name, func(w http.ResponseWriter) {
			if _, err := io.WriteString(w, text[0]); err != nil {
				return
			}
			for more := strings.Repeat(text[1], 1000); ; {
				if _, err := io.WriteString(w, more); err != nil {
					return
				}
			}
		}, open)
		try(t, name+", broken off", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, text[0]+text[1])
			panic(http.ErrAbortHandler)
		}, open)
	}
	for _, announced := range []string{"1073741824", "10000000000000"} {
		try(t, announced+" bytes announced", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", announced)
			_, _ = io.WriteString(w, "{")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}, open)
	}
	try(t, "nothing", func(http.ResponseWriter) {}, open)
	try(t, "a web page", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<!DOCTYPE html><html><body>Hello") }, open)
}

func try(t *testing.T, name string, answer func(http.ResponseWriter), open func(context.Context, string) (*hypervisor.Client, error)) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c, err := open(ctx, srv.Listener.Addr().String())
	runtime.ReadMemStats(&after)
	switch used := after.TotalAlloc - before.TotalAlloc; {
	case err == nil:
		t.Errorf("%s: the driver has opened a Client", name)
		c.Close()
	case ctx.Err() != nil:
		t.Errorf("%s: the context had to end it: %v", name, err)
	case used > memory:
		t.Errorf("%s: %d MiB were allocated: %v", name, used>>20, err)
	case len(err.Error()) > 1000:
		t.Errorf("%s: an error of %d bytes: %.200s", name, len(err.Error()), err)
	}
}
