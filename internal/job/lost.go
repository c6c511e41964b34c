package job

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Call is a call that changes something. If the connection breaks, its answer
// is lost: the platform may have done the work, may still do it, or may never
// have received the call.
type Call[T any] struct {
	Send func(context.Context) (T, error)
	// Lost reports whether an error says that the answer was lost.
	Lost func(error) bool
	// Goal checks, by looking at the platform alone, whether the call's goal
	// is reached, once nothing works on it any more. If so, it returns an
	// answer in place of the lost one.
	Goal func(context.Context) (answer T, reached bool, err error)
	// Again is set where a second call is safe even if the first still
	// arrives late: the late call neither undoes the second one's work nor
	// repeats it. The call is then sent once more.
	Again bool
}

// ErrNotKnown means that the search for what a call did has failed too.
var ErrNotKnown = errors.New("whether it was done is not known")

// Do sends the call.
func (c Call[T]) Do(ctx context.Context) (T, error) {
	r, err := c.Send(ctx)
	return c.After(ctx, r, err)
}

// After continues with the first answer.
func (c Call[T]) After(ctx context.Context, r T, err error) (T, error) {
	for again := c.Again; err != nil && c.Lost(err); again = false {
		found, reached, gerr := c.look(ctx, !again)
		switch {
		case gerr != nil:
			return r, fmt.Errorf("%w; %w: %v", err, ErrNotKnown, gerr)
		case reached:
			return found, nil
		case !again:
			return r, fmt.Errorf("%w; the platform shows no trace of it", err)
		}
		r, err = c.Send(ctx)
	}
	return r, err
}

// lookLimit bounds the pauses between looks at the goal.
const lookLimit = 1600 * time.Millisecond

// look checks the goal. A platform that is busy may read a call only after its
// connection broke, so a call that is not sent again is looked for repeatedly.
func (c Call[T]) look(ctx context.Context, repeatedly bool) (T, bool, error) {
	for wait := lookLimit / 16; ; wait *= 2 {
		found, reached, err := c.Goal(ctx)
		if err != nil || reached || !repeatedly || wait > lookLimit {
			return found, reached, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return found, false, ctx.Err()
		}
	}
}
