package tour

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// show prints steps as they run, with a bar on a terminal, and all of them as
// a table at the end.
type show struct {
	w      io.Writer
	tty    bool
	now    string // the present step
	phase  string
	rows   []row
	failed int
}

type row struct {
	step, outcome string
	took          time.Duration
	text          string
}

func newShow(w io.Writer) *show {
	s := &show{w: w}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		i, err := f.Stat()
		s.tty = err == nil && i.Mode()&os.ModeCharDevice != 0
	}
	return s
}

func (s *show) line(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.w, format+"\n", args...)
}

func (s *show) clear() {
	if s.tty {
		fmt.Fprint(s.w, "\r\x1b[2K")
	}
}

// step runs f and records its outcome.
func (s *show) step(name string, f func() (string, error)) {
	s.now, s.phase = name, ""
	if !s.tty {
		s.line("%s …", name)
	}
	begin := time.Now()
	text, err := f()
	r := row{step: name, outcome: "done", took: time.Since(begin), text: text}
	var u *hypervisor.UnsupportedError
	switch {
	case err == nil:
	case errors.As(err, &u):
		r.outcome, r.text = "not here", fmt.Sprintf("%s: %s (%s)", u.Capability, u.Support.Detail, u.Support.Reason)
	case errors.Is(err, errNotHere):
		r.outcome, r.text = "not here", err.Error()
	default:
		r.outcome, r.text = "FAILED", err.Error()
		s.failed++
	}
	r.text = strings.Join(strings.Fields(r.text), " ") // one line, whatever the platform's text is
	s.rows = append(s.rows, r)
	mark := map[string]string{"done": "✓", "not here": "–", "FAILED": "✗"}[r.outcome]
	s.line("%s %s: %s", mark, name, r.text)
}

// progress shows a task's state: a bar, or one line for each new phase.
func (s *show) progress(p hypervisor.TaskState) {
	if !s.tty {
		if p.Phase != "" && p.Phase != s.phase && !p.Done {
			s.line("    %s", p.Phase)
		}
		s.phase = p.Phase
		return
	}
	const width = 30
	n, percent := 0, "   "
	if p.Fraction >= 0 {
		n = int(math.Round(min(p.Fraction, 1) * width))
		percent = fmt.Sprintf("%3.0f %%", 100*p.Fraction)
	}
	s.clear()
	fmt.Fprintf(s.w, "  %-26s %s%s %s %s", s.now, strings.Repeat("█", n), strings.Repeat("░", width-n), percent, p.Phase)
}

func (s *show) table() {
	fmt.Fprintln(s.w)
	t := tabwriter.NewWriter(s.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tOUTCOME\tTOOK\tWHAT")
	for _, r := range s.rows {
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\n", r.step, r.outcome, r.took.Round(time.Millisecond), r.text)
	}
	_ = t.Flush()
}

// watch shows a task's progress and returns its result. An interrupt asks the
// hypervisor to stop and waits for the true end.
func watch[T any](ctx context.Context, s *show, t *hypervisor.Task[T]) (T, error) {
	for p, err := range t.Progress(ctx) {
		if err != nil {
			break
		}
		s.progress(p)
	}
	return t.Run(ctx, time.Minute)
}
