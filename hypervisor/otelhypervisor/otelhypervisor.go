// Package otelhypervisor turns the operations of a hypervisor.Client into
// OpenTelemetry spans and metrics:
//
//	obs, err := otelhypervisor.New(nil)
//	c, err := hypervisor.Open(ctx, url, &hypervisor.Options{Observer: obs})
//
// A span is named after the operation ("vm.clone") and carries the
// attributes hypervisor.driver, hypervisor.object.kind, hypervisor.object.id,
// hypervisor.task, hypervisor.calls and, on failure, error.type (the kind).
// Metrics are hypervisor.operation.duration (a histogram in seconds) and
// hypervisor.calls (a counter of calls to the platform). Object IDs are on
// spans only: as metric attributes they would grow without bound.
package otelhypervisor

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const scope = "github.com/anyvisor/anyvisor/hypervisor/otelhypervisor"

// Options choose the providers; nil fields mean the global ones.
type Options struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// New makes an Observer. It fails if the meter refuses an instrument.
func New(o *Options) (hypervisor.Observer, error) {
	tp, mp := otel.GetTracerProvider(), otel.GetMeterProvider()
	if o != nil && o.TracerProvider != nil {
		tp = o.TracerProvider
	}
	if o != nil && o.MeterProvider != nil {
		mp = o.MeterProvider
	}
	tracer, meter := tp.Tracer(scope), mp.Meter(scope)
	took, err := meter.Float64Histogram("hypervisor.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("How long operations took, to their true end where somebody watched it."))
	if err != nil {
		return nil, err
	}
	calls, err := meter.Int64Counter("hypervisor.calls", metric.WithUnit("{call}"),
		metric.WithDescription("Calls sent to the platform."))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, op hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		begin := time.Now()
		ctx, span := tracer.Start(ctx, string(op.Name), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("hypervisor.driver", op.Driver),
			attribute.String("hypervisor.object.kind", string(op.Object.Kind)),
			attribute.String("hypervisor.object.id", op.Object.ID)))
		return ctx, func(end hypervisor.CallEnd) {
			attrs := []attribute.KeyValue{attribute.String("hypervisor.operation", string(op.Name)), attribute.String("hypervisor.driver", op.Driver)}
			span.SetAttributes(attribute.Int("hypervisor.calls", end.Calls))
			if end.Task != "" {
				span.SetAttributes(attribute.String("hypervisor.task", string(end.Task)))
			}
			if end.Err != nil {
				kind := attribute.String("error.type", end.Kind.String())
				attrs = append(attrs, kind)
				span.SetAttributes(kind)
				span.RecordError(end.Err)
				span.SetStatus(codes.Error, end.Kind.String())
			}
			span.End()
			// The metrics outlive the operation's context, which may have ended.
			late, set := context.WithoutCancel(ctx), metric.WithAttributeSet(attribute.NewSet(attrs...))
			took.Record(late, time.Since(begin).Seconds(), set)
			calls.Add(late, int64(end.Calls), set)
		}
	}, nil
}
