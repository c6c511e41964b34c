//go:build !unix

package vspheresim

// Without such locks it is unknown which folders dead processes left.

func lockNew(string) (release func(), err error) { return func() {}, nil }

func tryLock(string) (release func(), ok bool) { return nil, false }
