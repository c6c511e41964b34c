package vsphere

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestVolumeNames(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	var store hypervisor.DatastoreID
	for s, err := range c.Datastores(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		store = s.ID
	}
	sim.ResetCalls()
	for _, name := range []string{"..", ".", "] x", "a] [b", "[x] y", "a/b", `a\b`, "../x", "\u202ex"} {
		if _, err := c.CreateVolume(t.Context(), hypervisor.VolumeSpec{Name: name, Datastore: store, SizeBytes: hypervisor.MiB}).Wait(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
			t.Errorf("%q: %v", name, err)
		}
	}
	if n := sim.Calls(); len(n) > 0 {
		t.Errorf("calls were made: %v", n)
	}
}

// TestEmptyError: an HTTP error without a text says more than EOF.
func TestEmptyError(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusOK, http.StatusServiceUnavailable} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		_, err := Open(t.Context(), Config{Host: strings.TrimPrefix(srv.URL, "http://"), Username: "u", Password: "p", PlainHTTP: true}, nil)
		if hypervisor.KindOf(err) != hypervisor.ErrUnavailable || !strings.Contains(err.Error(), "no content") && !strings.Contains(err.Error(), "503") {
			t.Errorf("HTTP status %d: %v (%v)", status, err, hypervisor.KindOf(err))
		}
		srv.Close()
	}
}
