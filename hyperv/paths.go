package hyperv

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// defaultCSVRoot is the folder of cluster shared volumes on every node, unless
// the cluster names another one.
const defaultCSVRoot = `C:\ClusterStorage\`

// sharedRoot returns the part of a path before the share or the cluster shared
// volume that it is on, or "" if it is a drive of one host. The letter case is
// not significant.
func (h *host) sharedRoot(path string) string {
	if strings.HasPrefix(path, `\\`) {
		server, _, _ := strings.Cut(path[2:], `\`)
		return path[:min(len(path), 2+len(server)+1)]
	}
	if n := len(h.csvRoot); n > 0 && len(path) > n && strings.EqualFold(path[:n], h.csvRoot) {
		return path[:n]
	}
	return ""
}

// shared reports whether a path names the same file on several hosts.
func (h *host) shared(path string) bool { return h.sharedRoot(path) != "" }

// shared reports whether a path without a host may name a file of one of the
// connected hosts.
func (d *driver) shared(path string) bool {
	return slices.ContainsFunc(d.hosts, func(h *host) bool { return h.up() && h.shared(path) })
}

// volume returns the ID of the disk image at a path of this host. Windows
// writes one path in several ways of upper and lower case. The ID has one.
func (h *host) volume(path string) hypervisor.VolumeID {
	p := strings.ToLower(path)
	if h.shared(p) {
		return hypervisor.VolumeID(p)
	}
	return hypervisor.VolumeID(string(h.id) + "|" + p)
}

// datastoreOf returns the drive, cluster shared volume or share that holds a
// path.
func (h *host) datastoreOf(path string) hypervisor.DatastoreID {
	if root := h.sharedRoot(path); root != "" {
		name, _, _ := strings.Cut(path[len(root):], `\`)
		return hypervisor.DatastoreID(strings.ToLower(root + name))
	}
	drive, _, _ := strings.Cut(path, `\`)
	return hypervisor.DatastoreID(string(h.id) + "|" + strings.ToUpper(drive))
}

// splitID splits an ID of a volume or datastore into its parts. The host is
// empty if the object is shared.
func splitID(id string) (host hypervisor.HostID, path string) {
	if h, p, ok := strings.Cut(id, "|"); ok {
		return hypervisor.HostID(h), p
	}
	return "", id
}

var drive = regexp.MustCompile(`^[A-Za-z]:$`)

// directory returns the folder for new images: the host's default directory
// if it is in the datastore or none is given, and otherwise the root of the
// datastore.
func (h *host) directory(ds hypervisor.DatastoreID) (string, error) {
	if ds == "" || strings.EqualFold(string(ds), string(h.datastoreOf(h.vhdPath))) {
		return h.vhdPath, nil
	}
	on, path := splitID(string(ds))
	if on == "" && !h.shared(path) || on != "" && !drive.MatchString(path) {
		return "", hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDatastore, ID: string(ds)}, "no such datastore")
	}
	if on != "" && !strings.EqualFold(string(on), string(h.id)) {
		return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{Kind: hypervisor.ObjectDatastore, ID: string(ds)},
			"the datastore is a drive of host %s, not of %s", on, h.id)
	}
	return path, nil
}

// join makes a path; the directory may be a drive's root such as "D:".
func join(dir, name string) string { return strings.TrimRight(dir, `\`) + `\` + name }

func base(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// fileName makes a name from the name of a machine, which may have any
// characters. Windows accepts the name, and it is not in use.
func fileName(vm string) string {
	var b strings.Builder
	for _, r := range vm {
		if b.Len() >= 40 {
			break
		}
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	return b.String() + "-" + randomHex(4)
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// newGUID makes a random GUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0F|0x40, b[8]&0x3F|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// formatOf returns an image's format by its extension. Snapshots' images are
// .avhdx and .avhd.
func formatOf(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return ""
	}
	switch ext := strings.ToLower(path[i+1:]); ext {
	case "avhdx":
		return "vhdx"
	case "avhd":
		return "vhd"
	default:
		return ext
	}
}
