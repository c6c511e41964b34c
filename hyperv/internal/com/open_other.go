//go:build !windows

package com

import (
	"context"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// Open fails, because this system has no COM.
func Open(context.Context, Config) (cim.Session, error) { return nil, ErrNotWindows }
