//go:build !linux

package imagefile

import "io"

// holesOf returns nil: all of a file is data.
func holesOf(io.ReaderAt) holeFinder { return nil }
