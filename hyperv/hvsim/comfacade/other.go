//go:build !windows

package comfacade

import (
	"errors"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

// Register fails with errors.ErrUnsupported: there is no COM here.
func Register(*hvsim.Sim) (revoke func() error, err error) { return nil, errors.ErrUnsupported }
