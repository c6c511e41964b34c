package lab

import (
	"os"
	"path/filepath"
	"strings"
)

// The lock file that every lab's folder holds while its process lives.
const inUse = ".in-use"

// TempDir makes a folder for a running lab. It also removes folders with the same prefix that
// dead processes left, after it has called sweep for each to undo their changes outside of it.
// The name is short, because the paths of the sockets in it may have 107 bytes. release releases
// the folder; the caller removes it.
func TempDir(prefix string, sweep func(dir string)) (dir string, release func(), err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", nil, err
	}
	unlock, err := lockFile(filepath.Join(cache, prefix+".lock"))
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	locks, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", inUse))
	for _, l := range locks {
		done, err := tryLockFile(l)
		if err != nil {
			continue // its lab is running
		}
		old := strings.TrimSuffix(l, "/"+inUse)
		if sweep != nil {
			sweep(old)
		}
		os.RemoveAll(old)
		done()
	}
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", nil, err
	}
	// Programs that gave up root's rights must be able to enter it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	release, err = lockFile(filepath.Join(dir, inUse))
	return dir, release, err
}
