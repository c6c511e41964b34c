//go:build cgo

package libvirtx

import (
	"sync"
	"sync/atomic"

	"libvirt.org/go/libvirt"
)

// libvirt has one event loop for each process. It runs while a connection of
// this package is open and ends with the last one.
var loop struct {
	sync.Mutex
	registered bool
	users      int
	stop       *atomic.Bool
	done       chan struct{}
}

// acquireLoop must be called before a connection is opened. Otherwise libvirt
// sets up the connection without keepalive and events.
func acquireLoop() error {
	loop.Lock()
	defer loop.Unlock()
	if !loop.registered {
		if err := libvirt.EventRegisterDefaultImpl(); err != nil {
			return err
		}
		loop.registered = true
	}
	loop.users++
	if loop.users > 1 {
		return nil
	}
	stop, done := new(atomic.Bool), make(chan struct{})
	loop.stop, loop.done = stop, done
	go func() {
		defer close(done)
		for !stop.Load() {
			if err := libvirt.EventRunDefaultImpl(); err != nil {
				return
			}
		}
	}()
	return nil
}

func releaseLoop() {
	loop.Lock()
	defer loop.Unlock()
	loop.users--
	if loop.users > 0 {
		return
	}
	loop.stop.Store(true)
	// The loop sleeps in poll: a timer wakes it up.
	var timer int
	ready := make(chan struct{})
	timer, err := libvirt.EventAddTimeout(0, func(int) {
		<-ready
		_ = libvirt.EventRemoveTimeout(timer) // it exists, because this is its callback
	})
	close(ready)
	if err == nil {
		<-loop.done
	}
}
