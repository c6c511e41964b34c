package hyperv

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/com"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/guard"
)

var kinds = map[cim.Kind]hypervisor.Kind{
	cim.NotFound:        hypervisor.ErrNotFound,
	cim.Exists:          hypervisor.ErrExists,
	cim.InvalidArgument: hypervisor.ErrInvalidArgument,
	cim.InvalidState:    hypervisor.ErrInvalidState,
	cim.Unsupported:     hypervisor.ErrUnsupported,
	cim.Busy:            hypervisor.ErrBusy,
	cim.Unauthenticated: hypervisor.ErrUnauthenticated,
	cim.Permission:      hypervisor.ErrPermission,
	cim.Exhausted:       hypervisor.ErrExhausted,
	cim.Unavailable:     hypervisor.ErrUnavailable,
	cim.Timeout:         hypervisor.ErrTimeout,
}

// unsent marks an error of a connection over which the request was never
// sent: the same call may be made again.
func unsent(err error) error {
	var conn *wsman.ConnectionError
	if errors.As(err, &conn) && !conn.Sent && hypervisor.KindOf(err) == hypervisor.ErrUnknown {
		return &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Unsent: true, Err: err}
	}
	return err
}

// ErrorKind implements hypervisor.Driver.
func (d *driver) ErrorKind(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.ErrUnknown {
		return k
	}
	var login *wsman.LoginError
	var conn *wsman.ConnectionError
	var ce *cim.Error
	var over *guard.LimitError
	switch {
	case errors.As(err, &over):
		return hypervisor.ErrExhausted
	case errors.Is(err, cim.ErrClosed):
		return hypervisor.ErrClosed
	case errors.Is(err, cim.ErrJobForgotten):
		return hypervisor.ErrNotFound
	case errors.As(err, &login):
		return hypervisor.ErrUnauthenticated
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return hypervisor.ErrUnknown
	case errors.As(err, &ce):
		if ce.Job != nil && ce.Job.Cancelled {
			return hypervisor.ErrCanceled
		}
		return kinds[ce.Kind()]
	case errors.As(err, &conn):
		return hypervisor.ErrUnavailable
	case errors.Is(err, com.ErrNotWindows):
		return hypervisor.ErrUnsupported
	}
	return hypervisor.ErrUnknown
}
