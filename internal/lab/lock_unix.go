//go:build unix

package lab

import (
	"os"
	"syscall"
)

// lockFile takes an exclusive lock that the kernel drops when the process ends. If necessary, it
// waits for the lock.
func lockFile(path string) (unlock func(), err error) { return flock(path, syscall.LOCK_EX) }

// tryLockFile is like lockFile, without waiting.
func tryLockFile(path string) (unlock func(), err error) {
	return flock(path, syscall.LOCK_EX|syscall.LOCK_NB)
}

func flock(path string, how int) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
