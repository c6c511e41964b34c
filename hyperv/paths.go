package hyperv

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// clusterRoot is where cluster shared volumes appear on every node.
const clusterRoot = `C:\ClusterStorage\`

// shared reports whether a path names the same file on several hosts.
func shared(path string) bool {
	return strings.HasPrefix(path, `\\`) || len(path) > len(clusterRoot) && strings.EqualFold(path[:len(clusterRoot)], clusterRoot)
}

// volume is the ID of the disk image at a path of this host.
func (h *host) volume(path string) hypervisor.VolumeID {
	if shared(path) {
		return hypervisor.VolumeID(path)
	}
	return hypervisor.VolumeID(string(h.id) + "|" + path)
}

// datastoreOf is the drive, cluster shared volume or share that holds a path.
func (h *host) datastoreOf(path string) hypervisor.DatastoreID {
	if shared(path) {
		skip := len(clusterRoot)
		if strings.HasPrefix(path, `\\`) {
			skip = 2
			if i := strings.IndexByte(path[2:], '\\'); i >= 0 {
				skip += i + 1
			}
		}
		if i := strings.IndexByte(path[skip:], '\\'); i >= 0 {
			return hypervisor.DatastoreID(path[:skip+i])
		}
		return hypervisor.DatastoreID(path)
	}
	drive, _, _ := strings.Cut(path, `\`)
	return hypervisor.DatastoreID(string(h.id) + "|" + strings.ToUpper(drive))
}

// splitID takes an ID of a volume or datastore apart; the host is empty for
// what is shared.
func splitID(id string) (host hypervisor.HostID, path string) {
	if h, p, ok := strings.Cut(id, "|"); ok {
		return hypervisor.HostID(h), p
	}
	return "", id
}

var drive = regexp.MustCompile(`^[A-Za-z]:$`)

// directory is where new images go: the host's default directory if it is in
// the datastore or none is given, else the root of the datastore.
func (h *host) directory(ds hypervisor.DatastoreID) (string, error) {
	if ds == "" || strings.EqualFold(string(ds), string(h.datastoreOf(h.vhdPath))) {
		return h.vhdPath, nil
	}
	on, path := splitID(string(ds))
	if on == "" && !shared(path) || on != "" && !drive.MatchString(path) {
		return "", hypervisor.Errorf(hypervisor.KindNotFound, hypervisor.Ref{Kind: hypervisor.KindOfDatastore, ID: string(ds)}, "no such datastore")
	}
	if on != "" && !strings.EqualFold(string(on), string(h.id)) {
		return "", hypervisor.Errorf(hypervisor.KindInvalidArgument, hypervisor.Ref{Kind: hypervisor.KindOfDatastore, ID: string(ds)},
			"the datastore is a drive of host %s, not of %s", on, h.id)
	}
	return path, nil
}

// join makes a path; the directory may be a drive's root such as "D:".
func join(dir, name string) string { return strings.TrimRight(dir, `\`) + `\` + name }

func base(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// fileName makes a name that Windows takes and that is not in use from the
// name of a machine, which may hold anything.
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

// formatOf tells an image's format by its extension. Snapshots' images are
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
