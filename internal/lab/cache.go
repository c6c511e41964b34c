package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
		base = "/var/cache" // a root shell without HOME, as some CI runners have
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

// CopyFile copies a file and makes the folders that to needs.
func CopyFile(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
