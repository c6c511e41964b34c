//go:build !unix

package lab

func lockFile(string) (func(), error) { return nil, ErrUnavailable }

func tryLockFile(string) (func(), error) { return nil, ErrUnavailable }
