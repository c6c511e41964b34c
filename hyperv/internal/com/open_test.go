//go:build !windows

package com_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hyperv/internal/com"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNoCOMHere(t *testing.T) {
	if s, err := com.Open(t.Context(), com.Config{}); s != nil || !errors.Is(err, com.ErrNotWindows) {
		t.Errorf("%v, %v", s, err)
	}
}
