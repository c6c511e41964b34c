package wsmand

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

// TestReplyShapes: NULL arrays are left out, NULL scalars are not, and
// references have no selector for the namespace, as in recorded replies.
func TestReplyShapes(t *testing.T) {
	var w writer
	w.instance(cimx.New(schema.Lookup("root/virtualization/v2", 20348).Class("Msvm_ComputerSystem"), "HV01"))
	if s := w.String(); strings.Contains(s, "OperationalStatus") || !strings.Contains(s, `<p:EnabledState xsi:nil="true"/>`) {
		t.Errorf("%s", s)
	}
	if s := epr(cimx.Ref{Namespace: "root/virtualization/v2", Class: "A", Keys: []cimx.KeyValue{{Name: "K", Value: "v"}}}); strings.Contains(s, "__cimnamespace") || !strings.Contains(s, `Name="K"`) {
		t.Errorf("%s", s)
	}
}
