package xen

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// lanRoundTrip is how long a packet takes to a host in the same building and
// back.
const lanRoundTrip = 500 * time.Microsecond

// inventorySize is how many machines the listings are measured with.
const inventorySize = 10_000

// byHand is JSON-RPC by hand, with nothing of the driver.
type byHand struct {
	http    *http.Client
	url     string
	session string
}

func newNative(b *testing.B, sim *xapisim.Sim) *byHand {
	n := &byHand{url: sim.URL() + "/jsonrpc", http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16,
		TLSClientConfig: &tls.Config{RootCAs: sim.CertPool(), MinVersion: tls.VersionTLS12}}}}
	if err := n.call(&n.session, "session.login_with_password", sim.User(), sim.Password(), "2.0", "bench"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.call(new(string), "session.logout", n.session); err != nil {
			b.Error(err)
		}
		n.http.CloseIdleConnections()
	})
	return n
}

func (n *byHand) call(result any, method string, args ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": args})
	if err != nil {
		return err
	}
	resp, err := n.http.Post(n.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data := make([]byte, max(resp.ContentLength, 0)) // faster than a json.Decoder
	if _, err := io.ReadFull(resp.Body, data); err != nil {
		return err
	}
	answer := struct{ Result, Error any }{Result: result}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Error != nil {
		return fmt.Errorf("%s: %v: %w", method, answer.Error, err)
	}
	return nil
}

// The fields that a brief listing reports.
type nativeVM struct {
	UUID      string `json:"uuid"`
	Name      string `json:"name_label"`
	Power     string `json:"power_state"`
	Template  bool   `json:"is_a_template"`
	Snapshot  bool   `json:"is_a_snapshot"`
	Control   bool   `json:"is_control_domain"`
	Host      string `json:"resident_on"`
	Metrics   string `json:"metrics"`
	CPUs      int64  `json:"VCPUs_at_startup"`
	Dynamic   int64  `json:"memory_dynamic_max"`
	DynMin    int64  `json:"memory_dynamic_min"`
	MemTarget int64  `json:"memory_target"`
}

type nativeMetrics struct {
	CPUs int64 `json:"VCPUs_number"`
}

type nativeHost struct {
	UUID string `json:"uuid"`
}

// list is the best hand-written listing: the three classes at the same time.
func (n *byHand) list() ([]hypervisor.VMInfo, error) {
	var vms map[string]nativeVM
	var metrics map[string]nativeMetrics
	var hosts map[string]nativeHost
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() { errs[0] = n.call(&vms, "VM.get_all_records", n.session) })
	wg.Go(func() { errs[1] = n.call(&metrics, "VM_metrics.get_all_records", n.session) })
	wg.Go(func() { errs[2] = n.call(&hosts, "host.get_all_records", n.session) })
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	var out []hypervisor.VMInfo
	for _, v := range vms {
		out = n.add(out, v, metrics[v.Metrics], hosts[v.Host])
	}
	return out, nil
}

func (n *byHand) add(out []hypervisor.VMInfo, v nativeVM, m nativeMetrics, h nativeHost) []hypervisor.VMInfo {
	if v.Template || v.Snapshot || v.Control {
		return out
	}
	i := hypervisor.VMInfo{ID: hypervisor.VMID(v.UUID), Name: v.Name, State: state(v.Power), Host: hypervisor.HostID(h.UUID), CPUs: int(v.CPUs), MemoryBytes: v.Dynamic, ReadAt: time.Now()}
	if m.CPUs > 0 {
		i.CPUs = int(m.CPUs)
	}
	if v.DynMin < v.Dynamic {
		i.MemoryBytes = v.MemTarget
	}
	return append(out, i)
}

// listByOne is how such listings are often written: a call for the references,
// and one for each record.
func (n *byHand) listByOne() ([]hypervisor.VMInfo, error) {
	var refs []string
	if err := n.call(&refs, "VM.get_all", n.session); err != nil {
		return nil, err
	}
	var out []hypervisor.VMInfo
	for _, r := range refs {
		var v nativeVM
		var m nativeMetrics
		var h nativeHost
		if err := n.call(&v, "VM.get_record", n.session, r); err != nil {
			return nil, err
		}
		if v.Metrics != "OpaqueRef:NULL" {
			if err := n.call(&m, "VM_metrics.get_record", n.session, v.Metrics); err != nil {
				return nil, err
			}
		}
		if v.Host != "OpaqueRef:NULL" {
			if err := n.call(&h, "host.get_record", n.session, v.Host); err != nil {
				return nil, err
			}
		}
		out = n.add(out, v, m, h)
	}
	return out, nil
}

// BenchmarkList compares the driver's listing of 10,000 machines with the best
// hand-written one and with one record per call, in the same run. The
// simulator works in the same process, so its time is in all of them; without
// a network between them a call costs next to nothing, so one record per call
// is measured over a LAN too.
func BenchmarkList(b *testing.B) {
	w := newWorld(b, xapisim.Config{Hosts: 4})
	if _, err := w.sim.AddVMs(xapisim.Bulk{Count: inventorySize, Running: inventorySize / 2}); err != nil {
		b.Fatal(err)
	}
	n := newNative(b, w.sim)
	ours := func() (int, error) {
		k := 0
		for _, err := range w.c.VMs(b.Context(), &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
			if err != nil {
				return k, err
			}
			k++
		}
		return k, nil
	}
	theirs := func(f func() ([]hypervisor.VMInfo, error)) func() (int, error) {
		return func() (int, error) { v, err := f(); return len(v), err }
	}
	timed := func(f func() (int, error)) time.Duration {
		begin := time.Now()
		if k, err := f(); err != nil || k != inventorySize+2 {
			b.Fatalf("%d machines: %v", k, err)
		}
		return time.Since(begin)
	}
	driver, best := time.Hour, time.Hour // of the fastest rounds: the rest is what else the machine does
	for b.Loop() {
		driver = min(driver, timed(ours))
		best = min(best, timed(theirs(n.list)))
	}
	b.StopTimer()
	byOne := timed(theirs(n.listByOne))
	w.sim.ResetCalls()
	timed(ours)
	calls := w.sim.TotalCalls()
	b.ReportMetric(float64(driver)/1e6, "driver-ms")
	b.ReportMetric(float64(best)/1e6, "native-ms")
	b.ReportMetric(float64(driver)/float64(best), "driver/native")
	// The same over a network: every message takes a round trip of a LAN longer.
	w.sim.Fault(xapisim.Fault{Method: "*", Delay: lanRoundTrip, Count: -1})
	lan := time.Hour
	for range 3 {
		lan = min(lan, timed(ours))
	}
	b.ReportMetric(float64(timed(theirs(n.listByOne)))/float64(lan), "one-by-one/driver-LAN")
	b.ReportMetric(float64(byOne)/float64(driver), "one-by-one/driver")
	b.ReportMetric(float64(calls), "calls")
}

// BenchmarkDriver measures what every driver is measured by.
func BenchmarkDriver(b *testing.B) {
	hypervisortest.RunBenchmarks(b, hypervisortest.Harness{Driver: "xapi", Rung: hypervisortest.Simulator, Label: "10,000 machines",
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			w := newWorld(b, xapisim.Config{Hosts: 4})
			if _, err := w.sim.AddVMs(xapisim.Bulk{Count: inventorySize, Running: inventorySize / 2}); err != nil {
				t.Fatalf("machines: %v", err)
			}
			return &hypervisortest.Backend{Client: w.c, Spec: spec}
		}})
}
