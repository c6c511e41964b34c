package kvmlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// Serial is the path, as the host sees it, to use as <serial type='file'><source path=.../> (with
// append='on') or as the <log file=.../> of a serial console, for the functions below. The path is
// the same on every host and leads to a file of its own on each, so that a migrated guest
// continues in the destination's file.
func (h *Host) Serial(name string) string { return "/var/log/libvirt/" + name + ".serial" }

// ReadSerial returns everything that the guest wrote to Serial(name) on this host.
func (h *Host) ReadSerial(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(h.root, h.Serial(name)))
}

// WaitTick waits until the guest that writes to Serial(name) has counted to at least n on this host,
// and returns its newest count.
func (h *Host) WaitTick(ctx context.Context, name string, n int) (tick int, err error) {
	err = lab.WaitFor(ctx, 100*time.Millisecond, func(context.Context) error {
		text, err := h.ReadSerial(name)
		if err != nil {
			return err
		}
		if tick, _ = lab.LastTick(text); tick < max(n, 1) {
			return fmt.Errorf("guest %s on %s has counted to %d, not %d; console: %q", name, h.Name, tick, n, text[max(0, len(text)-300):])
		}
		return nil
	})
	return tick, err
}

// ClearSerial empties Serial(name) on this host, so that the counts of an earlier boot don't
// satisfy WaitTick.
func (h *Host) ClearSerial(name string) error {
	err := os.Truncate(filepath.Join(h.root, h.Serial(name)), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
