//go:build !windows && (!unix || aix || solaris)

package fake

import (
	"errors"
	"os"
)

// lockFile returns an error: the standard library has no lock for this system.
func lockFile(string) (*os.File, error) {
	return nil, errors.New("files can't be locked on this operating system")
}
