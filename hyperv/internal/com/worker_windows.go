package com

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	ole "github.com/go-ole/go-ole"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// workers are goroutines that own their threads, which have joined the
// multithreaded apartment. All COM calls run on them, so that the threads of
// the caller are not affected, and CoInitializeEx and CoUninitialize balance.
type workers struct {
	jobs   chan func()
	quit   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	exited chan struct{}
}

func startWorkers(n int) (*workers, error) {
	w := &workers{jobs: make(chan func()), quit: make(chan struct{}), exited: make(chan struct{})}
	up := make(chan error, n)
	w.wg.Add(n)
	for range n {
		go w.run(up)
	}
	var failed error
	for range n {
		if err := <-up; err != nil {
			failed = err
		}
	}
	if failed != nil {
		w.stop()
		return nil, failed
	}
	return w, nil
}

func (w *workers) run(up chan<- error) {
	defer w.wg.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := joinMTA(); err != nil {
		up <- err
		return
	}
	defer ole.CoUninitialize()
	up <- nil
	for {
		select {
		case <-w.quit:
			return
		case f := <-w.jobs:
			f()
		}
	}
}

// joinMTA initialises COM on this thread. S_FALSE means that this was done
// before, and counts as an initialisation to undo.
func joinMTA() error {
	err := ole.CoInitializeEx(0, ole.COINIT_MULTITHREADED)
	var oe *ole.OleError
	if errors.As(err, &oe) && (oe.Code() == 0 || oe.Code() == 1) {
		return nil
	}
	return err
}

// do runs f on a worker. When ctx ends first, do returns, and f's result is
// dropped when its present COM call returns. A panic of f, of which the
// wmiinstance layer has several, becomes an error.
func (w *workers) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	job := func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("com: %v", r)
			}
		}()
		done <- f()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
		return cim.ErrClosed
	case w.jobs <- job:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// stop ends the workers, after the calls that they are in.
func (w *workers) stop() {
	w.once.Do(func() { close(w.quit) })
	w.wg.Wait()
}
