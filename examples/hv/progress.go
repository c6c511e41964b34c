package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// progress shows how far work is: on a terminal one line that is overwritten
// and removed at the end, elsewhere a line for each change.
type progress struct {
	w        io.Writer
	terminal bool
	first    time.Time // of the first state
	last     string    // as shown
}

// isTerminal reports whether a file is a terminal. Other devices, such as
// /dev/null, count as one.
func isTerminal(f *os.File) bool {
	i, err := f.Stat()
	return err == nil && i.Mode()&os.ModeCharDevice != 0
}

// show prints a state that was seen at a time. States without a fraction are
// left out.
func (p *progress) show(s hypervisor.TaskState, now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
	if s.Fraction < 0 {
		return
	}
	if s.Started.IsZero() {
		s.Started = p.first
	}
	if !p.terminal {
		if line := fmt.Sprintf("%3.0f%% %s", 100*s.Fraction, s.Phase); line != p.last {
			fmt.Fprintln(p.w, line)
			p.last = line
		}
		return
	}
	p.overwrite(bar(s, now.Sub(s.Started)))
}

// end removes the line from a terminal.
func (p *progress) end() {
	if p.terminal && p.last != "" {
		p.overwrite("")
		fmt.Fprint(p.w, "\r")
	}
}

// overwrite replaces the line on a terminal. It pads with spaces, which every
// terminal understands.
func (p *progress) overwrite(line string) {
	pad := utf8.RuneCountInString(p.last) - utf8.RuneCountInString(line)
	fmt.Fprint(p.w, "\r"+line+strings.Repeat(" ", max(pad, 0)))
	p.last = line
}

// bar is a state in one line of at most 79 characters, with the rate and the
// time left once the work has run for a second.
func bar(s hypervisor.TaskState, ran time.Duration) string {
	const width = 20
	f := min(s.Fraction, 1)
	full := int(f * width)
	line := fmt.Sprintf("[%s%s] %3.0f%%", strings.Repeat("#", full), strings.Repeat("-", width-full), math.Floor(100*f))
	if s.Phase != "" {
		line += " " + s.Phase
	}
	if s.BytesTotal > 0 {
		line += fmt.Sprintf(" %s of %s", size(s.BytesDone), size(s.BytesTotal))
		f = float64(s.BytesDone) / float64(s.BytesTotal)
	}
	if ran >= time.Second && s.BytesDone > 0 {
		line += fmt.Sprintf(", %s/s", size(int64(float64(s.BytesDone)/ran.Seconds())))
	}
	if ran >= time.Second && f > 0 && f < 1 {
		line += fmt.Sprintf(", %v left", time.Duration(float64(ran)*(1-f)/f).Round(time.Second))
	}
	if r := []rune(line); len(r) > 79 {
		line = string(r[:79])
	}
	return line
}

// size is a number of bytes in MiB, or in GiB from 1 GiB on.
func size(n int64) string {
	if n >= hypervisor.GiB {
		return fmt.Sprintf("%.1f GiB", float64(n)/float64(hypervisor.GiB))
	}
	return mib(n)
}
