package hyperv

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/com"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
)

var kinds = map[cim.Kind]hypervisor.Kind{
	cim.NotFound:        hypervisor.KindNotFound,
	cim.Exists:          hypervisor.KindExists,
	cim.InvalidArgument: hypervisor.KindInvalidArgument,
	cim.InvalidState:    hypervisor.KindInvalidState,
	cim.Unsupported:     hypervisor.KindUnsupported,
	cim.Busy:            hypervisor.KindBusy,
	cim.Unauthenticated: hypervisor.KindUnauthenticated,
	cim.Permission:      hypervisor.KindPermission,
	cim.Exhausted:       hypervisor.KindExhausted,
	cim.Unavailable:     hypervisor.KindUnavailable,
	cim.Timeout:         hypervisor.KindTimeout,
}

// unsent marks an error of a connection that the request never went out on:
// the same call may be made again.
func unsent(err error) error {
	var conn *wsman.ConnectionError
	if errors.As(err, &conn) && !conn.Sent && hypervisor.KindOf(err) == hypervisor.KindUnknown {
		return &hypervisor.Error{Kind: hypervisor.KindUnavailable, Unsent: true, Err: err}
	}
	return err
}

// ErrorKind implements hypervisor.Driver.
func (d *driver) ErrorKind(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.KindUnknown {
		return k
	}
	var login *wsman.LoginError
	var conn *wsman.ConnectionError
	var ce *cim.Error
	switch {
	case errors.Is(err, cim.ErrClosed):
		return hypervisor.KindClosed
	case errors.Is(err, cim.ErrJobForgotten):
		return hypervisor.KindNotFound
	case errors.As(err, &login):
		return hypervisor.KindUnauthenticated
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return hypervisor.KindUnknown
	case errors.As(err, &ce):
		if ce.Job != nil && ce.Job.Cancelled {
			return hypervisor.KindCanceled
		}
		return kinds[ce.Kind()]
	case errors.As(err, &conn):
		return hypervisor.KindUnavailable
	case errors.Is(err, com.ErrNotWindows):
		return hypervisor.KindUnsupported
	}
	return hypervisor.KindUnknown
}
