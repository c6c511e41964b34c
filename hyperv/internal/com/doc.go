// Package com is the COM transport of package cim: WMI on Windows through the
// wmiinstance layer of github.com/microsoft/wmi, to the local machine or to
// another one with credentials. On other systems Open fails.
package com

import (
	"context"
	"errors"
	"time"
)

// Config says which machine's WMI to talk to.
type Config struct {
	// Server is the machine's name; empty means this machine.
	Server string
	// User is "name" or `DOMAIN\name`; empty means the process's own user,
	// and is the only choice for this machine.
	User     string
	Password string
	// Workers is how many calls run at once; 0 means 4.
	Workers int
	// EventWait is how long one wait for an event lasts before the context is
	// looked at; 0 means 250 ms.
	EventWait time.Duration
	// OnCall, if set, is told of every call before it is made.
	OnCall func(ctx context.Context)
}

// ErrNotWindows is the error of Open on other systems.
var ErrNotWindows = errors.New("com: WMI through COM needs Windows; use WS-Management")
