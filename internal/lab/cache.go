package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// CacheDir is the folder in which labs keep downloads and images between runs. It may be
// deleted at any time when no lab runs.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/var/cache" // a root shell without HOME, as with some CI runners
	}
	dir := filepath.Join(base, "anyvisor-lab")
	return dir, os.MkdirAll(dir, 0o755)
}

// Cached returns the folder that build filled, now or in an earlier run with the same name and
// key. Concurrent processes wait for each other, and a build that fails leaves nothing.
func Cached(ctx context.Context, name, key string, build func(ctx context.Context, dir string) error) (string, error) {
	root, err := CacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(key))
	dir := filepath.Join(root, name+"-"+hex.EncodeToString(sum[:6]))
	unlock, err := lockFile(filepath.Join(root, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("lab cache: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(root, "building-"+name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := build(ctx, tmp); err != nil {
		return "", fmt.Errorf("lab: build %s: %w", name, err)
	}
	return dir, os.Rename(tmp, dir)
}

// CopyFile copies a file and makes the folders that to needs. A concurrent reader of to sees the
// old file or the new one.
func CopyFile(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // it fails when all went well
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := errors.Join(out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

// CopyFiles copies the files of one folder into another, without sub-folders. A folder that does
// not exist counts as empty.
func CopyFiles(to, from string) error {
	files, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		if err := CopyFile(filepath.Join(to, f.Name()), filepath.Join(from, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// WriteTemp puts text into a new file in dir and returns its path. It panics if it can't, which
// in a running lab's own folder means that nothing else will work either.
func WriteTemp(dir, text string) string {
	f, err := os.CreateTemp(dir, "*.xml")
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(fmt.Sprintf("lab folder: %v", err))
	}
	return f.Name()
}
