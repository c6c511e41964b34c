package imagefile

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
)

// holesOf returns how the holes of r are found, by lseek(2) with SEEK_DATA and
// SEEK_HOLE, or nil if r is no regular file. It moves the file's position,
// which ReadAt has no use for.
func holesOf(r io.ReaderAt) holeFinder {
	f, ok := r.(*os.File)
	if !ok {
		return nil
	}
	if s, err := f.Stat(); err != nil || !s.Mode().IsRegular() {
		return nil
	}
	const seekData, seekHole = 3, 4
	var mu sync.Mutex
	var begin, end int64 // what was found last
	var hole, far bool
	return func(off int64) (bool, int64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if far && off >= begin && off < end {
			return hole, end, true
		}
		data, err := f.Seek(off, seekData)
		switch {
		case errors.Is(err, syscall.ENXIO): // a hole until the end
			s, err := f.Stat()
			if err != nil {
				return false, 0, false
			}
			begin, end, hole, far = off, s.Size(), true, true
		case err != nil:
			return false, 0, false
		case data > off:
			begin, end, hole, far = off, data, true, true
		default:
			next, err := f.Seek(off, seekHole)
			if err != nil {
				return false, 0, false
			}
			begin, end, hole, far = off, next, false, true
		}
		return hole, end, true
	}
}
