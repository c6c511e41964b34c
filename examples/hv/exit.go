package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/alecthomas/kong"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// exitCodes is the status that hv exits with for each kind of error. Other
// errors exit with 1, and wrong command lines with 2.
var exitCodes = map[hypervisor.Kind]int{
	hypervisor.ErrInvalidArgument: 2,
	hypervisor.ErrNotFound:        3,
	hypervisor.ErrAmbiguous:       4,
	hypervisor.ErrExists:          5,
	hypervisor.ErrInvalidState:    6,
	hypervisor.ErrBusy:            7,
	hypervisor.ErrUnsupported:     8,
	hypervisor.ErrIncompatible:    9,
	hypervisor.ErrUnauthenticated: 10,
	hypervisor.ErrPermission:      11,
	hypervisor.ErrExhausted:       12,
	hypervisor.ErrLicense:         13,
	hypervisor.ErrUnavailable:     14,
	hypervisor.ErrTimeout:         15,
	hypervisor.ErrCanceled:        16,
}

const exitDetached = 17 // the platform continues the work; the message has the task's ID

const exitHelp = `Exit status: 0 done, 1 other error, 2 invalid argument, 3 not found, 4 ambiguous name, 5 exists already, 6 invalid state, 7 busy, 8 unsupported, 9 incompatible, 10 login refused, 11 permission denied, 12 exhausted, 13 licence, 14 unavailable, 15 time limit, 16 cancelled, 17 the work continues without hv.`

// usageError is an error of the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// exitCode returns the status for an error.
func exitCode(err error) int {
	var detached *hypervisor.DetachedError
	var usage usageError
	var parse *kong.ParseError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &detached):
		return exitDetached
	case errors.As(err, &usage), errors.As(err, &parse):
		return 2
	}
	if code, ok := exitCodes[hypervisor.KindOf(err)]; ok {
		return code
	}
	if errors.Is(err, context.Canceled) {
		return exitCodes[hypervisor.ErrCanceled]
	}
	return 1
}
