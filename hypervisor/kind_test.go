package hypervisor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestEnumsAreTexts: what is stored or sent as JSON is text and comes back.
func TestEnumsAreTexts(t *testing.T) {
	type both struct {
		K hypervisor.Kind
		L hypervisor.Level
	}
	for k := hypervisor.ErrUnknown; k <= hypervisor.ErrClosed; k++ {
		in := both{k, hypervisor.Level(uint8(k) % 4)}
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{"K":%q,"L":%q}`, k.String(), in.L.String()); string(text) != want {
			t.Errorf("%s, want %s", text, want)
		}
		var out both
		if err := json.Unmarshal(text, &out); err != nil || out != in {
			t.Errorf("%s came back as %v (%v)", text, out, err)
		}
	}
	var x both
	if json.Unmarshal([]byte(`{"K":"no-such"}`), &x) == nil || json.Unmarshal([]byte(`{"L":"perhaps"}`), &x) == nil {
		t.Errorf("unknown texts were taken: %+v", x)
	}
}

// TestKindIsAnError: errors.Is finds the kind, and only that one.
func TestKindIsAnError(t *testing.T) {
	err := fmt.Errorf("context: %w", hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.VMID("1").Ref(), "a task works on it"))
	for k := hypervisor.ErrNotFound; k <= hypervisor.ErrClosed; k++ {
		if errors.Is(err, k) != (k == hypervisor.ErrBusy) {
			t.Errorf("Is(%s) is %v", k.String(), errors.Is(err, k))
		}
	}
	if !errors.Is(hypervisor.Errorf(hypervisor.ErrUnsupported, hypervisor.Ref{}, "x"), errors.ErrUnsupported) {
		t.Error("ErrUnsupported is not errors.ErrUnsupported")
	}
	if got := (&hypervisor.Error{Op: "host.list", Kind: hypervisor.ErrClosed}).Error(); got != "host.list: client closed" {
		t.Errorf("%q", got)
	}
}
