package hyperv

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// imageFormats are the extensions of the files that a VolumeID may name.
var imageFormats = []string{"vhdx", "vhd", "avhdx", "avhd", "iso"}

// imageID splits the ID of an image into its parts. A path has one spelling,
// the one that this driver gives it. Whatever Windows would accept as another
// spelling of it is refused.
func (d *driver) imageID(id hypervisor.VolumeID) (host hypervisor.HostID, path string, err error) {
	return imageID(id, d.shared)
}

func imageID(id hypervisor.VolumeID, shared func(path string) bool) (host hypervisor.HostID, path string, err error) {
	host, path = splitID(string(id))
	if why := notImage(host, path, shared(path)); why != "" {
		e := hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "the ID names no image: %s", why)
		e.Unsent = true
		return "", "", e
	}
	return host, path, nil
}

// definition matches the paths of this driver's definition files. A leftover
// may name one, and so may a machine's notes, which others can write.
var definition = regexp.MustCompile(`(?i)\\anyvisor\\[0-9a-f]{16}\\Virtual Machines\\[0-9a-f-]{36}[.]vmcx$`)

// notImage returns why a path can't be that of an image, or an empty string
// if it can.
func notImage(host hypervisor.HostID, path string, shared bool) string {
	var parts []string
	switch {
	case shared != (host == ""):
		return `it is neither host|drive:\path nor the path of a shared file`
	case strings.HasPrefix(path, `\\`):
		parts = strings.Split(path[2:], `\`)
		if len(parts) < 3 || strings.HasSuffix(parts[1], "$") {
			return "it is no path below a share"
		}
	case len(path) > 3 && drive.MatchString(path[:2]) && path[2] == '\\':
		parts = strings.Split(path[3:], `\`)
	default:
		return "its path does not begin with a drive"
	}
	for _, p := range parts {
		if why := notName(p); why != "" {
			return why
		}
	}
	ext := path[strings.LastIndexByte(path, '.')+1:]
	if !slices.Contains(imageFormats, strings.ToLower(ext)) {
		return "its extension is none of " + strings.Join(imageFormats, ", ")
	}
	return ""
}

// Names that Windows treats as a device, whatever the extension, and short
// names that mean another one ("Naming Files, Paths, and Namespaces").
var (
	deviceName = regexp.MustCompile(`(?i)^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *([.].*)?$`)
	shortName  = regexp.MustCompile(`^[^.]{1,6}~[0-9]{1,6}([.][^.]{0,3})?$`)
)

// notName returns why a part of a path has, or may have, another spelling. It
// is empty if it has none.
func notName(p string) string {
	switch {
	case p == "":
		return "a part of its path is empty"
	case strings.HasSuffix(p, ".") || strings.HasSuffix(p, " "): // . and .. too
		return fmt.Sprintf("%q ends with a dot or a space", p)
	case strings.ContainsAny(p, `\/:*?"<>|`):
		return fmt.Sprintf(`%q has one of \ / : * ? " < > |`, p)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }):
		return fmt.Sprintf("%q has a character that does not show", p)
	case deviceName.MatchString(p):
		return fmt.Sprintf("%q is the name of a device", p)
	case shortName.MatchString(p):
		return fmt.Sprintf("%q is a short name: use the long one", p)
	}
	return ""
}

// listed refuses a path outside of the datastores that the host lists.
func (h *host) listed(ctx context.Context, s cim.Session, path string) error {
	ds := h.datastoreOf(path)
	ref := hypervisor.Ref{Kind: hypervisor.ObjectDatastore, ID: string(ds)}
	if strings.HasPrefix(path, `\\`) {
		return nil // WMI lists no shares
	}
	if h.shared(path) {
		all, err := clusterVolumes(ctx, h, s)
		if err == nil && !slices.ContainsFunc(all, func(i hypervisor.DatastoreInfo) bool { return strings.EqualFold(string(i.ID), string(ds)) }) {
			err = hypervisor.Errorf(hypervisor.ErrNotFound, ref, "the cluster has no such volume")
		}
		return err
	}
	rows, err := cim.Collect(s.Query(ctx, cim.CIMV2, cim.Select("Win32_LogicalDisk", []string{"DeviceID"}, "DriveType = 3")))
	if err == nil && !slices.ContainsFunc(rows, func(r *cim.Instance) bool { return strings.EqualFold(r.Str("DeviceID"), path[:2]) }) {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, ref, "the host has no such drive")
	}
	return err
}

// image finds the file of an image, by the name that the host itself uses for
// it.
func (h *host) image(ctx context.Context, s cim.Session, id hypervisor.VolumeID, path string) error {
	if onShare(path) {
		return h.sharedImage(ctx, s, id, path)
	}
	f, err := fileOf(ctx, s, path)
	switch {
	case err != nil:
		return err
	case f == nil:
		return hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "there is no file %s on %s", path, h.id)
	case !strings.EqualFold(f.Str("Name"), path):
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "%s is another name of %s: use that", path, f.Str("Name"))
	}
	return nil
}
