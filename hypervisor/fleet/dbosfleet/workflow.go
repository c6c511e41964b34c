package dbosfleet

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// targetInput is the recorded beginning of a target.
type targetInput struct {
	Run    string       `json:"run"`
	Target fleet.Target `json:"target"`
}

// run is the workflow of a run. It has one step, the choice of the targets;
// the targets are workflows of their own, since their order differs each time.
func (e *Engine) run(ctx dbos.Context, input string) (string, error) {
	var in runInput
	if err := json.Unmarshal([]byte(input), &in); err != nil {
		return "", err
	}
	e.mu.Lock()
	p := e.plans[in.ID]
	e.mu.Unlock()
	if p == nil || p.Shape() != in.Shape {
		return "", park(ctx) // another program's
	}
	s := e.store(in.ID)
	s.enter(ctx)
	defer s.enter(nil)
	if err := fleet.Drive(ctx, p, s); err != nil {
		if ctx.Err() == nil {
			e.mu.Lock()
			select {
			case e.failed <- fmt.Errorf("dbosfleet: run %q: %w", in.ID, err):
			default:
			}
			e.mu.Unlock()
		}
		return "", park(ctx)
	}
	sum, _, err := s.read()
	if err != nil || sum.Summary == nil {
		return "", park(ctx)
	}
	data, err := json.Marshal(sum.Summary)
	return string(data), err
}

// park waits until the worker stops, so that DBOS leaves the workflow for the
// next one.
func park(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// target is the workflow of a target. It waits until the run gives it its
// turn, since DBOS begins it by itself after a restart.
func (e *Engine) target(ctx dbos.Context, input string) (string, error) {
	var in targetInput
	if err := json.Unmarshal([]byte(input), &in); err != nil {
		return "", err
	}
	s := e.store(in.Run)
	t, err := s.turn(ctx, in.Target.Key())
	if err != nil {
		return "", err
	}
	j := &journal{s: s, ctx: ctx, id: s.targetID(in.Target.Key()), fresh: t.fresh}
	r, err := t.body(ctx, j)
	if err != nil {
		t.ended <- err
		return "", park(ctx)
	}
	data, err := json.Marshal(r)
	t.result = r
	t.ended <- err
	return string(data), err
}

// journal records the steps of a target as steps of its workflow.
type journal struct {
	s     *store
	ctx   dbos.Context
	id    string
	fresh bool
}

func (j *journal) Fresh() bool { return j.fresh }

func (j *journal) Step(_ context.Context, name string, do func(context.Context) fleet.Outcome) (fleet.Outcome, error) {
	var o fleet.Outcome
	text, err := dbos.RunAsStep(j.ctx, func(ctx context.Context) (string, error) {
		data, err := json.Marshal(do(ctx))
		return string(data), err
	}, dbos.WithStepName(name))
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal([]byte(text), &o)
}

func taskKey(step string) string { return "task:" + step }

func (j *journal) Task(_ context.Context, step string) (hypervisor.TaskID, error) {
	if j.fresh {
		return "", nil
	}
	list, err := dbos.ListWorkflows(j.s.e.client, dbos.WithFilterWorkflowIDs(j.id), dbos.WithFilterLoadInput(false), dbos.WithFilterLoadOutput(false))
	if err != nil || len(list) == 0 {
		return "", err
	}
	id, _ := list[0].Attributes[taskKey(step)].(string)
	return hypervisor.TaskID(id), nil
}

func (j *journal) SaveTask(_ context.Context, step string, id hypervisor.TaskID) error {
	return dbos.SetWorkflowAttributes(j.s.e.client, j.id, map[string]any{taskKey(step): string(id)}, dbos.WithMergeAttributes())
}
