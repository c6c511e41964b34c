package hypervisortest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// tree is a T that has named sub-tests.
type tree interface {
	T
	sub(name string, f func(tree))
}

// subTest is a tree of package testing.
type subTest struct{ *testing.T }

func (t subTest) sub(name string, f func(tree)) {
	t.Run(name, func(t *testing.T) { f(subTest{t}) })
}

// finder is a tree that keeps findings.
type finder struct {
	name     string
	ctx      context.Context
	mu       sync.Mutex
	found    []Finding
	failed   bool
	cleanups []func()
}

func (f *finder) sub(name string, body func(tree)) {
	if f.name != "" {
		name = f.name + "/" + name
	}
	child := &finder{name: name, ctx: f.ctx}
	child.do(func() { body(child) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = f.failed || child.failed
	f.found = append(f.found, child.found...)
}

// do calls body and then the clean-ups. Both may end with Fatalf.
func (f *finder) do(body func()) {
	f.alone(body)
	for _, c := range slices.Backward(f.cleanups) {
		f.alone(c)
	}
}

func (f *finder) alone(body func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				buf := make([]byte, 4096)
				f.Errorf("panic: %v\n%s", p, buf[:runtime.Stack(buf, false)])
			}
		}()
		body()
	}()
	<-done
}

func (f *finder) Helper()                  {}
func (f *finder) Name() string             { return f.name }
func (f *finder) Logf(string, ...any)      {}
func (f *finder) Context() context.Context { return f.ctx }
func (f *finder) Cleanup(c func())         { f.cleanups = append(f.cleanups, c) }
func (f *finder) Failed() bool             { f.mu.Lock(); defer f.mu.Unlock(); return f.failed }

func (f *finder) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
	f.found = append(f.found, Finding{f.name, fmt.Sprintf(format, args...)})
}

func (f *finder) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}
