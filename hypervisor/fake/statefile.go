package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// stateFile is a backend that a file keeps. While a process has the backend it
// has a lock on the file path + ".lock", so that no two change it at once. The
// system drops the lock of a process that ends.
type stateFile struct {
	path string
	lock *os.File
	b    *Backend
	open int // sessions
}

// stateFiles holds the backends of this process that files keep, by path.
var stateFiles struct {
	sync.Mutex
	m map[string]*stateFile
}

// statePath returns the path of a state file from that of a URL. On Windows the
// path of fake:///C:/lab.json begins with the drive.
func statePath(u *url.URL) string {
	p := u.Path
	if runtime.GOOS == "windows" {
		p = strings.TrimPrefix(p, "/")
	}
	return filepath.Clean(filepath.FromSlash(p))
}

// openStateFile opens a session on the backend that a file keeps. A file that
// is not there is made at the end, and cfg describes that backend. For one that
// is there, query must be empty or the same as when it was made. The errors
// are ErrBusy while another process has the file, and ErrNotFound,
// ErrPermission or ErrInvalidArgument where it can't be used.
func openStateFile(path string, cfg Config, query string) (*Driver, error) {
	stateFiles.Lock()
	defer stateFiles.Unlock()
	f := stateFiles.m[path]
	if f == nil {
		lock, err := lockState(path)
		if err != nil {
			return nil, err
		}
		b, err := readState(path, cfg, query)
		if err != nil {
			return nil, errors.Join(err, lock.Close())
		}
		f = &stateFile{path: path, lock: lock, b: b}
		if stateFiles.m == nil {
			stateFiles.m = map[string]*stateFile{}
		}
		stateFiles.m[path] = f
	} else if err := sameQuery(path, f.b, query); err != nil {
		return nil, err
	}
	f.open++
	d := f.b.Driver()
	d.file = f
	return d, nil
}

// close ends a session. The last one of the process saves the backend and lets
// other processes have the file.
func (f *stateFile) close() error {
	stateFiles.Lock()
	defer stateFiles.Unlock()
	if f.open--; f.open > 0 {
		return nil
	}
	delete(stateFiles.m, f.path)
	return errors.Join(writeState(f.path, f.b), f.lock.Close())
}

// errLocked is lockFile's error for a file that another process has.
var errLocked = errors.New("another process has this file open")

// lockState takes the lock and writes this process's number into it.
func lockState(path string) (*os.File, error) {
	f, err := lockFile(path + ".lock")
	if errors.Is(err, errLocked) {
		by, _ := os.ReadFile(path + ".lock") // its text is a help only
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, stateRef(path), "process %s has this file open: wait for it, or name another file", strings.TrimSpace(string(by)))
	}
	if err != nil {
		return nil, stateError(path, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(stateError(path, err), f.Close())
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, errors.Join(stateError(path, err), f.Close())
	}
	return f, nil
}

// readState makes the backend that a file holds, or that cfg describes if there
// is no file.
func readState(path string, cfg Config, query string) (*Backend, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		cfg.Name = path
		b := New(cfg)
		b.query = query
		return b, nil
	}
	if err != nil {
		return nil, stateError(path, err)
	}
	b, err := Restore(data, cfg)
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, stateRef(path), "%w: name another file, or remove this one to begin anew", err)
	}
	b.cfg.Name = path
	return b, sameQuery(path, b, query)
}

// sameQuery refuses parameters that differ from those that the backend was made
// with: they would change nothing.
func sameQuery(path string, b *Backend, query string) error {
	if query == "" || query == b.query {
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrInvalidArgument, stateRef(path), "the backend in this file was made with other parameters (%q): leave them out, or name another file", b.query)
}

// writeState replaces the file in one step, so that a reader sees the old
// content or the new.
func writeState(path string, b *Backend) error {
	data, err := json.Marshal(b)
	if err != nil {
		return stateError(path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return stateError(path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(stateError(path, err), os.Remove(f.Name()))
	}
	return nil
}

func stateRef(path string) hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: "fake://" + path}
}

// stateError classifies an error of the file system.
func stateError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hypervisor.Errorf(hypervisor.ErrNotFound, stateRef(path), "%w: make its folder first", err)
	case errors.Is(err, fs.ErrPermission):
		return hypervisor.Errorf(hypervisor.ErrPermission, stateRef(path), "%w: choose a folder that this account may write to", err)
	}
	return hypervisor.Errorf(hypervisor.ErrInvalidArgument, stateRef(path), "%w: name a file in a folder with room", err)
}
