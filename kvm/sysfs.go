package kvm

import (
	"context"
	"net/url"
	"os"
)

// Sysfs gives access to a host's files below /sys, for which libvirt has no
// call: the size of a device's memory regions, its reset method, and the
// number of its virtual functions.
type Sysfs interface {
	ReadFile(ctx context.Context, path string) ([]byte, error)
	WriteFile(ctx context.Context, path string, data []byte) error
}

// localSysfs is the sysfs of this machine.
type localSysfs struct{}

func (localSysfs) ReadFile(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }

func (localSysfs) WriteFile(_ context.Context, path string, data []byte) error {
	return os.WriteFile(path, data, 0) // the file exists
}

// sysfsOf returns the files of the host behind a URI, or nil if there is no
// access.
func sysfsOf(cfg Config, uri string) Sysfs {
	if cfg.Sysfs != nil {
		if s := cfg.Sysfs(uri); s != nil {
			return s
		}
	}
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() != "" || u.Scheme == "test" {
		return nil
	}
	return localSysfs{}
}
