package xapisim_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// A pool of two hosts, and a call to it as any XAPI client makes it.
func ExampleStart() {
	sim, err := xapisim.Start(xapisim.Config{Hosts: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sim.Close()

	web := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	defer web.CloseIdleConnections()
	body := `{"jsonrpc":"2.0","method":"session.login_with_password","params":["root","wrong"],"id":1}`
	r, err := (&http.Client{Transport: web}).Post(sim.URL()+"/jsonrpc", "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	answer, _ := io.ReadAll(r.Body)
	fmt.Println(string(answer))
	fmt.Println(sim.Calls())
	// Output:
	// {"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_AUTHENTICATION_FAILED","data":["root","Authentication failure"]},"id":1}
	// map[session.login_with_password:1]
}
