package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestBar: rate and time left come from the bytes where there are any, and else
// from the fraction, and never before the work has run for a second.
func TestBar(t *testing.T) {
	for _, c := range []struct {
		s    hypervisor.TaskState
		ran  time.Duration
		want string
	}{
		{hypervisor.TaskState{Phase: "copying"}, time.Minute, "[--------------------]   0% copying"},
		{hypervisor.TaskState{Fraction: .5}, 10 * time.Second, "[##########----------]  50%, 10s left"},
		{hypervisor.TaskState{Fraction: .5}, 100 * time.Millisecond, "[##########----------]  50%"},
		{hypervisor.TaskState{Fraction: .25, Phase: "copying", BytesDone: hypervisor.GiB, BytesTotal: 4 * hypervisor.GiB}, 16 * time.Second,
			"[#####---------------]  25% copying 1.0 GiB of 4.0 GiB, 64 MiB/s, 48s left"},
		{hypervisor.TaskState{Fraction: .999}, 10 * time.Minute, "[###################-]  99%, 1s left"},
		{hypervisor.TaskState{Fraction: 1.5}, time.Minute, "[####################] 100%"},
	} {
		if got := bar(c.s, c.ran); got != c.want {
			t.Errorf("%+v after %v is\n%q, want\n%q", c.s, c.ran, got, c.want)
		}
	}
	if got := bar(hypervisor.TaskState{Phase: strings.Repeat("ü", 200)}, 0); len([]rune(got)) != 79 {
		t.Errorf("a long phase has %d characters", len([]rune(got)))
	}
}

// TestProgress: a terminal has one line, which is gone at the end; anything else
// has a line for each change and no carriage return.
func TestProgress(t *testing.T) {
	at := time.Now()
	shown := func(terminal bool) string {
		var out strings.Builder
		p := progress{w: &out, terminal: terminal}
		for _, f := range []float64{-1, .1, .1, .9} {
			p.show(hypervisor.TaskState{Fraction: f, Phase: "copying"}, at)
		}
		p.end()
		return out.String()
	}
	if got, want := shown(false), " 10% copying\n 90% copying\n"; got != want {
		t.Errorf("a file has %q, want %q", got, want)
	}
	got := shown(true)
	lines := strings.Split(got, "\r")
	if strings.Contains(got, "\n") || !strings.HasPrefix(got, "\r[##") || len(lines) < 3 || strings.TrimSpace(lines[len(lines)-2]) != "" {
		t.Errorf("a terminal has %q", got)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if isTerminal(w) {
		t.Error("a pipe is a terminal")
	}
}
