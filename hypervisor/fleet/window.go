package fleet

import (
	"slices"
	"time"
)

func (w *Window) location() *time.Location {
	if w.Location == nil {
		return time.UTC
	}
	return w.Location
}

// Wait returns the time from now until the window is open: 0 if it is open,
// and negative if it never opens.
func (w *Window) Wait(now time.Time) time.Duration {
	now = now.In(w.location())
	for day := -1; day <= 7; day++ {
		// By the calendar, since a day may have 23 or 25 hours.
		at := func(d int, t time.Duration) time.Time {
			return time.Date(now.Year(), now.Month(), now.Day()+d, 0, 0, int(t/time.Second), int(t%time.Second), now.Location())
		}
		from, to := at(day, w.From), at(day, w.To)
		if w.To < w.From {
			to = at(day+1, w.To)
		}
		if w.Days != nil && !slices.Contains(w.Days, at(day, 12*time.Hour).Weekday()) || !now.Before(to) {
			continue
		}
		return max(from.Sub(now), 0)
	}
	return -1
}
