//go:build !unix

package lab

func lockFile(string) (func(), error) { return nil, ErrUnavailable }
