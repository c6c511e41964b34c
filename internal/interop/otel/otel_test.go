// Package otel tests package otelhypervisor with OpenTelemetry's SDK.
package otel

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/otelhypervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSpansAndMetrics(t *testing.T) {
	spans, reader := tracetest.NewInMemoryExporter(), metric.NewManualReader()
	tp, mp := trace.NewTracerProvider(trace.WithSyncer(spans)), metric.NewMeterProvider(metric.WithReader(reader))
	obs, err := otelhypervisor.New(&otelhypervisor.Options{TracerProvider: tp, MeterProvider: mp})
	if err != nil {
		t.Fatal(err)
	}
	ctx, parent := tp.Tracer("test").Start(t.Context(), "request")
	c, err := hypervisor.Open(ctx, "fake://", &hypervisor.Options{Observer: obs})
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "one", MemoryBytes: 64 * hypervisor.MiB}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Info(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Resume(ctx).Wait(ctx); err == nil {
		t.Fatal("a machine that is off was resumed")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	parent.End()

	byName := map[string]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		byName[s.Name] = s
	}
	create, info, resume := byName["vm.create"], byName["vm.info"], byName["vm.resume"]
	for name, s := range map[string]tracetest.SpanStub{"vm.create": create, "vm.info": info, "vm.resume": resume} {
		if s.Parent.SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("span %q is no child of the request (there are %d spans)", name, len(byName))
		}
		if v, ok := attr(s.Attributes, "hypervisor.driver"); !ok || v.AsString() != "fake" {
			t.Errorf("span %q has driver %v", name, v)
		}
		if v, _ := attr(s.Attributes, "hypervisor.calls"); v.AsInt64() < 1 {
			t.Errorf("span %q counts %d calls", name, v.AsInt64())
		}
	}
	if v, _ := attr(info.Attributes, "hypervisor.object.id"); v.AsString() != string(vm.ID()) {
		t.Errorf("the span of Info names object %q, want %q", v.AsString(), vm.ID())
	}
	if v, _ := attr(create.Attributes, "hypervisor.task"); v.AsString() == "" {
		t.Error("the span of CreateVM names no task")
	}
	if v, _ := attr(resume.Attributes, "error.type"); resume.Status.Code != codes.Error || v.AsString() != "invalid-state" {
		t.Errorf("the span of the failed Resume has status %v and error.type %q", resume.Status, v.AsString())
	}
	if info.Status.Code == codes.Error {
		t.Error("the span of Info is marked as failed")
	}

	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	failed := map[string]int{}
	for _, sm := range data.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					if v, ok := p.Attributes.Value("error.type"); ok && v.AsString() == "invalid-state" {
						failed[m.Name] += int(p.Count)
					}
					if p.Attributes.HasValue("hypervisor.object.id") {
						t.Errorf("%s has one series for each object", m.Name)
					}
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					failed[m.Name] += int(p.Value)
				}
			}
		}
	}
	if failed["hypervisor.operation.duration"] != 1 || failed["hypervisor.calls"] < 3 {
		t.Errorf("the metrics tell %v, want one failed operation and at least three calls", failed)
	}
}

func attr(all []attribute.KeyValue, key string) (attribute.Value, bool) {
	for _, a := range all {
		if string(a.Key) == key {
			return a.Value, true
		}
	}
	return attribute.Value{}, false
}
