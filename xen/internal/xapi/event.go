package xapi

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Event is one change reported by event.from.
type Event struct {
	Class     string          `json:"class"` // lower case
	Operation string          `json:"operation"`
	Ref       Ref             `json:"ref"`
	Snapshot  json.RawMessage `json:"snapshot"` // the record; absent for del
}

// Events is what event.from returns.
type Events struct {
	Events []Event `json:"events"`
	Token  string  `json:"token"`
	// Counts are the numbers of objects, by class in lower case.
	Counts map[string]int `json:"valid_ref_counts"`
}

// From waits for events of the classes after a token, up to timeout. An empty
// token returns every object as an event of operation add. EVENTS_LOST is
// returned when the pool has another master. No server returns it.
func (c *Client) From(ctx context.Context, classes []string, token string, timeout time.Duration) (Events, error) {
	var e Events
	err := c.Call(ctx, &e, "event.from", classes, token, Float(timeout.Seconds()))
	return e, err
}

// Float is a number that is always sent with a decimal point, as the server
// requires for its floats.
type Float float64

// MarshalJSON keeps the point.
func (f Float) MarshalJSON() ([]byte, error) {
	s := strconv.FormatFloat(float64(f), 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return []byte(s), nil
}

// Time is XAPI's date format, such as 20261122T23:41:57Z.
type Time struct{ time.Time }

// UnmarshalJSON reads both spellings that servers use.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	for _, layout := range []string{"20060102T15:04:05Z", "20060102T15:04:05", time.RFC3339} {
		if p, err := time.Parse(layout, s); err == nil {
			if p.Unix() > 0 { // the epoch means "never"
				t.Time = p
			}
			return nil
		}
	}
	return nil // an unusual date is no reason to lose the record
}

// Task is a task's record.
type Task struct {
	UUID      string            `json:"uuid"`
	Label     string            `json:"name_label"`
	Status    string            `json:"status"` // pending, success, failure, cancelling, cancelled
	Progress  float64           `json:"progress"`
	Result    string            `json:"result"`
	ErrorInfo []string          `json:"error_info"`
	Allowed   []string          `json:"allowed_operations"`
	Other     map[string]string `json:"other_config"`
	Subtasks  []Ref             `json:"subtasks"`
}

// Ended reports whether the task is over.
func (t Task) Ended() bool {
	return t.Status == "success" || t.Status == "failure" || t.Status == "cancelled"
}

// Err is the error of a failed or cancelled task.
func (t Task) Err() error {
	if t.Status != "failure" && t.Status != "cancelled" {
		return nil
	}
	if len(t.ErrorInfo) == 0 {
		return &Error{Code: map[string]string{"cancelled": "TASK_CANCELLED", "failure": "INTERNAL_ERROR"}[t.Status]}
	}
	return &Error{Code: t.ErrorInfo[0], Params: t.ErrorInfo[1:]}
}

// ResultRef is the reference in Result, which is XML text even under JSON:
// <value>OpaqueRef:…</value>.
func (t Task) ResultRef() Ref {
	s := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(t.Result), "<value>"), "</value>")
	if strings.HasPrefix(s, "OpaqueRef:") {
		return Ref(s)
	}
	return ""
}

// Async starts a message as a task.
func (c *Client) Async(ctx context.Context, method string, args ...any) (Ref, error) {
	var t Ref
	err := c.Call(ctx, &t, "Async."+method, args...)
	return t, err
}

// poll is the time that one event.from waits. Servers limit it to minutes.
const poll = 30 * time.Second

// TaskWatch follows one task.
type TaskWatch struct {
	c     *Client
	ref   Ref
	token string
	seen  Task
}

// WatchTask makes a watch. Its methods are for one goroutine at a time.
func (c *Client) WatchTask(ref Ref) *TaskWatch { return &TaskWatch{c: c, ref: ref} }

// patience is how often in a row a watch tries again over a new connection.
// The watch only reads, and a caller that gives up a watch leaves work that
// continues.
const patience = 5

// Next returns the present state first, and then blocks until status or
// progress change or ctx ends.
func (w *TaskWatch) Next(ctx context.Context) (Task, error) {
	for n := 1; ; n++ {
		t, err := w.next(ctx)
		if n > patience || !lost(err) || ctx.Err() != nil {
			return t, err
		}
		select {
		case <-time.After(time.Duration(n*n) * 20 * time.Millisecond):
		case <-ctx.Done():
			return t, err
		case <-w.c.ctx.Done():
			return t, err
		}
	}
}

func (w *TaskWatch) next(ctx context.Context) (Task, error) {
	for {
		wait := poll
		if w.token == "" {
			wait = 0 // everything that is known about the task is returned at once
		}
		e, err := w.c.From(ctx, []string{"task/" + string(w.ref)}, w.token, wait)
		switch Code(err) {
		case "EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE":
			w.token = ""
			continue
		}
		if err != nil {
			return Task{}, err
		}
		w.token = e.Token
		for _, v := range e.Events {
			if v.Class != "task" || v.Ref != w.ref {
				continue
			}
			if v.Operation == "del" {
				return Task{}, &Error{Code: "HANDLE_INVALID", Params: []string{"task", string(w.ref)}}
			}
			var t Task
			if err := json.Unmarshal(v.Snapshot, &t); err != nil {
				return Task{}, err
			}
			if w.news(t) {
				return t, nil
			}
		}
		if len(e.Events) == 0 {
			// event.from reports nothing about references that don't exist,
			// and a new master doesn't report tasks of the old one.
			var t Task
			if err := w.c.Call(ctx, &t, "task.get_record", w.ref); err != nil {
				return Task{}, err
			}
			if w.news(t) {
				return t, nil
			}
		}
	}
}

// news remembers a state and reports whether it differs from the last one.
func (w *TaskWatch) news(t Task) bool {
	if t.Status == w.seen.Status && t.Progress == w.seen.Progress && w.seen.UUID != "" {
		return false
	}
	w.seen = t
	return true
}
