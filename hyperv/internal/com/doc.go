// Package com is the COM transport of package cim: WMI on Windows through the
// wmiinstance layer of github.com/microsoft/wmi, to the local machine or to
// another one with credentials. On other systems Open fails.
package com

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	refusals "github.com/anyvisor/anyvisor/internal/session"
)

// Config identifies the machine whose WMI is used.
type Config struct {
	// Server is the machine's name; empty means this machine.
	Server string
	// User is "name" or `DOMAIN\name`. Empty means the process's own user,
	// which is the only choice for this machine.
	User     string
	Password hypervisor.Secret
	// Workers is the number of calls that run at the same time; 0 means 4.
	Workers int
	// EventWait is the time that one wait for an event lasts before the
	// context is checked; 0 means 250 ms.
	EventWait time.Duration
	// OnCall, if set, is called before every call.
	OnCall func(ctx context.Context)
	// Refusals remembers refused logins; nil: this session alone remembers
	// them.
	Refusals *refusals.Refusals
}

// login runs connect, which sends the password: one at a time for each
// server, and not again for a while once it was refused. Each namespace needs
// a login of its own. Without a user there is no password to lock an account
// with.
func (c *Config) login(connect func() error) error {
	if c.User == "" {
		return connect()
	}
	done, err := c.Refusals.Enter(context.Background(), c.Server) // COM ends the logins that it may wait for
	if err != nil {
		return err
	}
	err = connect()
	var refusal error
	if loginRefused(err) {
		refusal = err
	}
	done(refusal, err == nil)
	return err
}

// loginRefused reports whether a login failed because of the user or the
// password. DCOM reports a wrong password as E_ACCESSDENIED, which can also
// mean that the user may not log in from afar. WMI's own "access denied",
// 0x80041003, is about a namespace, and so it is no refusal.
func loginRefused(err error) bool {
	var e *cim.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.HResult {
	case 0x80070005, // E_ACCESSDENIED
		0x8007052E, // ERROR_LOGON_FAILURE
		0x80070533, // ERROR_ACCOUNT_DISABLED
		0x80070775, // ERROR_ACCOUNT_LOCKED_OUT
		0x80070532: // ERROR_PASSWORD_EXPIRED
		return true
	}
	return false
}

// ErrNotWindows is the error of Open on other systems.
var ErrNotWindows = errors.New("com: WMI through COM needs Windows; use WS-Management")
