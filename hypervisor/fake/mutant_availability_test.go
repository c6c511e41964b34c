package fake_test

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func availabilityMutants() []mutant {
	return []mutant{
		{name: "a restart priority is not kept", area: "availability", finding: "after SetRestartPriority(low)", tell: func(l *lie) {
			l.restart = func(_ context.Context, id vmID, _ hypervisor.RestartPriority) (dtask, error) { return did(id.Ref()) }
		}},
		{name: "a priority of its own is reported as the default", area: "availability", finding: "after SetRestartPriority(low)", tell: func(l *lie) {
			l.avail = func(ctx context.Context, id vmID) (hypervisor.Availability, error) {
				a, err := l.Driver.Availability(ctx, id)
				a.Inherited = true
				return a, err
			}
		}},
		{name: "protected while HA is off", area: "availability", finding: "has Protected true", tell: func(l *lie) {
			l.avail = func(ctx context.Context, id vmID) (hypervisor.Availability, error) {
				a, err := l.Driver.Availability(ctx, id)
				a.Protected = a.Priority != hypervisor.RestartNever
				return a, err
			}
		}},
		{name: "protected and never restarted", area: "availability", finding: "of priority never has Protected true", cfg: fake.Config{HA: true}, tell: func(l *lie) {
			l.avail = func(ctx context.Context, id vmID) (hypervisor.Availability, error) {
				a, err := l.Driver.Availability(ctx, id)
				a.Protected = true
				return a, err
			}
		}},
		{name: "high is reported as medium", area: "availability", finding: "after SetRestartPriority(high)", tell: func(l *lie) {
			l.avail = func(ctx context.Context, id vmID) (hypervisor.Availability, error) {
				a, err := l.Driver.Availability(ctx, id)
				if a.Priority == hypervisor.RestartHigh {
					a.Priority = hypervisor.RestartMedium
				}
				return a, err
			}
		}},
		{name: "replication is always well", area: "availability", finding: "Replication is", tell: func(l *lie) {
			l.replication = func(ctx context.Context, id vmID) (hypervisor.ReplicationInfo, error) {
				r, err := l.Driver.Replication(ctx, id)
				if r.Health != hypervisor.HealthUnknown {
					r.Health = hypervisor.HealthOK
				}
				return r, err
			}
		}},
		{name: "replication of an absent machine is off", area: "availability", finding: "Replication of an absent machine", tell: func(l *lie) {
			l.replication = func(ctx context.Context, id vmID) (hypervisor.ReplicationInfo, error) {
				r, _ := l.Driver.Replication(ctx, id)
				return r, nil
			}
		}},
	}
}
