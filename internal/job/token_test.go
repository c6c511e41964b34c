package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// tasks finds tasks of a group, as a driver does.
type tasks struct {
	hypervisor.TaskGroup
	err error
}

func (f *tasks) ErrorKind(err error) hypervisor.Kind { return kind(err) }
func (f *tasks) Task(_ context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if f.err != nil {
		return nil, f.err
	}
	if t, ok := f.Find(id); ok {
		return t, nil
	}
	return nil, errGone
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tokens Tokens
		f, begun, release := &tasks{}, 0, make(chan struct{})
		begin := func() (hypervisor.DriverTask, error) {
			begun++
			return f.Go(context.Background(), hypervisor.TaskID(fmt.Sprint("t", begun)), func(context.Context, func(hypervisor.TaskState)) hypervisor.TaskState {
				<-release
				return hypervisor.TaskState{Result: vm}
			})
		}
		ids := make([]hypervisor.TaskID, 8)
		var all sync.WaitGroup
		for i := range ids {
			all.Go(func() {
				w, err := tokens.Once(context.Background(), "a", f, begin)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = w.ID()
				if s, err := w.Next(context.Background()); err != nil || s.Done {
					t.Errorf("its first state is %+v, %v: want the present one", s, err)
				}
			})
		}
		all.Wait()
		for _, id := range ids {
			if id != "t1" {
				t.Errorf("tasks %v: one was wanted", ids)
				break
			}
		}
		f.err = errLost // nobody can say whether it is under way
		if w, err := tokens.Once(context.Background(), "a", f, begin); !errors.Is(err, errLost) {
			t.Error(w, err)
		}
		f.err = nil
		for range 2 {
			if _, err := tokens.Once(context.Background(), "", f, begin); err != nil {
				t.Error(err)
			}
		}
		if begun != 3 {
			t.Errorf("%d tasks were begun: without a token each call is its own", begun)
		}
		close(release)
		synctest.Wait()
		if w, err := tokens.Once(context.Background(), "a", f, begin); err != nil || w.ID() != "t4" {
			t.Error("work that has ended was found:", w, err)
		}
		f.Close()
	})
}

func TestOnceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tokens Tokens
		hold := make(chan struct{})
		go tokens.Once(context.Background(), "a", &tasks{}, func() (hypervisor.DriverTask, error) { <-hold; return nil, errNative })
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		if _, err := tokens.Once(ctx, "a", &tasks{}, func() (hypervisor.DriverTask, error) { return nil, errNative }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(hold)
		synctest.Wait()
		if len(tokens.calls) != 0 {
			t.Errorf("%d calls that began nothing are remembered", len(tokens.calls))
		}
	})
}

// Memory is bounded however many tokens there are.
func TestTokensAreForgotten(t *testing.T) {
	var tokens Tokens
	for i := range keepTokens + 10 {
		id := fmt.Sprint(i)
		if _, err := tokens.Once(context.Background(), id, &tasks{}, func() (hypervisor.DriverTask, error) {
			return hypervisor.DoneTask(hypervisor.TaskID(id), hypervisor.TaskState{}), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(tokens.calls) != keepTokens || len(tokens.begun) != keepTokens {
		t.Errorf("%d calls and %d tokens are kept", len(tokens.calls), len(tokens.begun))
	}
}
