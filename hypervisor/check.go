package hypervisor

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// MaxName is the longest name in characters. Some platforms have a lower
// limit; their drivers refuse names above it.
const MaxName = 255

const maxText = 4096

func checkName(op op.Name, on Ref, what, name string) *Error {
	if e := checkText(op, on, what, name); e != nil {
		return e
	}
	switch n := utf8.RuneCountInString(name); {
	case strings.TrimSpace(name) == "":
		return invalid(op, on, "the %s is empty", what)
	case n > MaxName:
		return invalid(op, Ref{Kind: on.Kind, ID: on.ID}, "the %s has %d characters: at most %d are allowed", what, n, MaxName)
	case strings.ContainsAny(name, "\n\r\t"):
		return invalid(op, on, "the %s %q has a line break or tab", what, name)
	case name != strings.TrimSpace(name):
		return invalid(op, on, "the %s %q begins or ends with white space", what, name)
	}
	return nil
}

// checkNewName checks a name that the caller gives to an object. Names with
// characters that change the writing direction display as something else, and
// . and .. are folders.
func checkNewName(op op.Name, on Ref, what, name string) *Error {
	if e := checkName(op, on, what, name); e != nil {
		return e
	}
	if name == "." || name == ".." {
		return invalid(op, on, "the %s %q is that of a folder", what, name)
	}
	for _, r := range name {
		if r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return invalid(op, on, "the %s %q has the character %U, which changes the order of others", what, name, r)
		}
	}
	return nil
}

// checkText refuses text that no platform's wire format can carry.
func checkText(op op.Name, on Ref, what, s string) *Error {
	if !utf8.ValidString(s) {
		return invalid(op, Ref{Kind: on.Kind, ID: on.ID}, "the %s is no valid UTF-8", what)
	}
	if n := utf8.RuneCountInString(s); n > maxText {
		return invalid(op, Ref{Kind: on.Kind, ID: on.ID}, "the %s has %d characters: at most %d are allowed", what, n, maxText)
	}
	for _, r := range s {
		if unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' || r == '\ufffe' || r == '\uffff' {
			return invalid(op, Ref{Kind: on.Kind, ID: on.ID}, "the %s %q has the control character %U", what, s, r)
		}
	}
	return nil
}

func checkID(op op.Name, on Ref) *Error {
	if on.ID == "" {
		return invalid(op, on, "the %s's ID is empty", on.Kind)
	}
	return nil
}

func checkPolicy(op op.Name, on Ref, p DiskPolicy) *Error {
	if p != DeleteDisks && p != KeepDisks {
		return invalid(op, on, "DiskPolicy %d: use DeleteDisks or KeepDisks", p)
	}
	return nil
}

func checkSize(op op.Name, on Ref, what string, n int64) *Error {
	switch {
	case n <= 0:
		return invalid(op, on, "%s %d: give a number of bytes above 0", what, n)
	case n%MiB != 0:
		return invalid(op, on, "%s %d is no multiple of 1 MiB (%d bytes)", what, n, MiB)
	}
	return nil
}

func checkMemory(op op.Name, on Ref, what string, n int64) *Error {
	if n < MinMemory {
		return invalid(op, on, "%s %d: give at least %d bytes (4 MiB)", what, n, MinMemory)
	}
	return checkSize(op, on, what, n)
}

var labelKey = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,63}$`)

func checkLabels(op op.Name, on Ref, labels map[string]string) *Error {
	for k, v := range labels {
		if !labelKey.MatchString(k) {
			return invalid(op, on, "label key %q: use 1 to 63 letters, digits, '.', '_', '-' or '/'", k)
		}
		if e := checkText(op, on, "value of label "+k, v); e != nil {
			return e
		}
		if utf8.RuneCountInString(v) > MaxName {
			return invalid(op, on, "the value of label %q has more than %d characters", k, MaxName)
		}
	}
	return nil
}

var token = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,64}$`)

func checkToken(op op.Name, on Ref, t string) *Error {
	if t != "" && !token.MatchString(t) {
		return invalid(op, on, "token %q: use 1 to 64 letters, digits, '.', '_', ':', '/' or '-'", t)
	}
	return nil
}

func checkSpec(s *VMSpec) *Error {
	const op = op.VMCreate
	on := Ref{Kind: ObjectVM, Name: s.Name}
	for _, e := range []*Error{
		checkNewName(op, on, "name", s.Name), checkText(op, on, "description", s.Description),
		checkMemory(op, on, "MemoryBytes", s.MemoryBytes), checkLabels(op, on, s.Labels), checkToken(op, on, s.Token),
	} {
		if e != nil {
			return e
		}
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	switch {
	case s.CPUs < 0:
		return invalid(op, on, "CPUs %d is negative", s.CPUs)
	case s.MaxCPUs != 0 && s.MaxCPUs < s.CPUs:
		return invalid(op, on, "MaxCPUs %d is below CPUs %d", s.MaxCPUs, s.CPUs)
	case s.MaxMemoryBytes != 0 && s.MaxMemoryBytes < s.MemoryBytes:
		return invalid(op, on, "MaxMemoryBytes %d is below MemoryBytes %d", s.MaxMemoryBytes, s.MemoryBytes)
	case s.Firmware != FirmwareAny && s.Firmware != FirmwareBIOS && s.Firmware != FirmwareUEFI:
		return invalid(op, on, "Firmware %q: use %q or %q, or leave it empty", s.Firmware, FirmwareBIOS, FirmwareUEFI)
	case s.SecureBoot && s.Firmware == FirmwareBIOS:
		return invalid(op, on, "SecureBoot needs Firmware UEFI")
	case s.Boot != nil && s.Boot.Kernel == "":
		return invalid(op, on, "Boot.Kernel is empty: give the kernel's path on the host")
	}
	if e := checkRange(op, on, s.DynamicMemory, s.MemoryBytes); e != nil {
		return e
	}
	for _, d := range s.Disks {
		if e := checkDisk(op, on, d); e != nil {
			return e
		}
	}
	for _, n := range s.NICs {
		if e := checkNIC(op, on, n); e != nil {
			return e
		}
	}
	return nil
}

func checkRange(op op.Name, on Ref, r *MemoryRange, memory int64) *Error {
	switch {
	case r == nil:
		return nil
	case r.MinBytes < MinMemory || r.MinBytes%MiB != 0 || r.MaxBytes%MiB != 0:
		return invalid(op, on, "DynamicMemory %d to %d: use multiples of 1 MiB from 4 MiB up", r.MinBytes, r.MaxBytes)
	case r.MaxBytes < r.MinBytes:
		return invalid(op, on, "DynamicMemory: the maximum %d is below the minimum %d", r.MaxBytes, r.MinBytes)
	case memory != 0 && (memory < r.MinBytes || memory > r.MaxBytes):
		return invalid(op, on, "MemoryBytes %d is outside DynamicMemory %d to %d", memory, r.MinBytes, r.MaxBytes)
	}
	return nil
}

func checkDisk(op op.Name, on Ref, d DiskSpec) *Error {
	switch {
	case d.Image != "" && d.Volume != "":
		return invalid(op, on, "a disk has both Image (copied) and Volume (used as it is): choose one")
	case d.Volume != "" && d.SizeBytes != 0:
		return invalid(op, on, "a disk from Volume %s has the size that the volume has: leave SizeBytes out", d.Volume)
	case d.CDROM && d.Volume == "":
		return invalid(op, on, "a CD-ROM needs Volume, an ISO image")
	case d.Provisioning != ProvisioningAny && d.Provisioning != ProvisioningThin && d.Provisioning != ProvisioningThick:
		return invalid(op, on, "Provisioning %q: use %q or %q, or leave it empty", d.Provisioning, ProvisioningThin, ProvisioningThick)
	case d.Image == "" && d.Volume == "" || d.SizeBytes != 0:
		return checkSize(op, on, "a disk's SizeBytes", d.SizeBytes)
	}
	return nil
}

var mac = regexp.MustCompile(`^[0-9A-Fa-f][02468aceACE](:[0-9A-Fa-f]{2}){5}$`)

func checkNIC(op op.Name, on Ref, n NICSpec) *Error {
	if n.MAC != "" && !mac.MatchString(n.MAC) {
		return invalid(op, on, "MAC %q: give six pairs of hex digits with colons, a unicast address", n.MAC)
	}
	return nil
}

func checkChanges(on Ref, ch Changes) *Error {
	const op = op.VMReconfigure
	if ch == (Changes{NextStart: ch.NextStart}) {
		return invalid(op, on, "nothing to change")
	}
	if ch.Name != "" {
		if e := checkNewName(op, on, "new name", ch.Name); e != nil {
			return e
		}
	}
	if ch.Description != nil {
		if e := checkText(op, on, "description", *ch.Description); e != nil {
			return e
		}
	}
	switch {
	case ch.CPUs < 0 || ch.MaxCPUs < 0:
		return invalid(op, on, "CPUs %d and MaxCPUs %d: negative numbers make no sense", ch.CPUs, ch.MaxCPUs)
	case ch.CPUs > 0 && ch.MaxCPUs > 0 && ch.MaxCPUs < ch.CPUs:
		return invalid(op, on, "MaxCPUs %d is below CPUs %d", ch.MaxCPUs, ch.CPUs)
	case ch.MaxMemoryBytes > 0 && ch.MemoryBytes > ch.MaxMemoryBytes:
		return invalid(op, on, "MaxMemoryBytes %d is below MemoryBytes %d", ch.MaxMemoryBytes, ch.MemoryBytes)
	}
	if ch.MemoryBytes != 0 {
		if e := checkMemory(op, on, "MemoryBytes", ch.MemoryBytes); e != nil {
			return e
		}
	}
	if ch.MaxMemoryBytes != 0 {
		if e := checkMemory(op, on, "MaxMemoryBytes", ch.MaxMemoryBytes); e != nil {
			return e
		}
	}
	if ch.DynamicMemory != nil && *ch.DynamicMemory != (MemoryRange{}) {
		return checkRange(op, on, ch.DynamicMemory, ch.MemoryBytes)
	}
	return nil
}

func checkClone(op op.Name, on Ref, r CloneRequest) *Error {
	for _, e := range []*Error{
		checkNewName(op, on, "clone's name", r.Name), checkText(op, on, "description", r.Description),
		checkLabels(op, on, r.Labels), checkToken(op, on, r.Token),
	} {
		if e != nil {
			return e
		}
	}
	switch {
	case r.Mode > CloneModeInstant:
		return invalid(op, on, "Mode %d: use CloneModeFull, CloneModeLinked or CloneModeInstant", r.Mode)
	case r.Mode == CloneModeInstant && r.From != "":
		return invalid(op, on, "an Instant clone is forked from the running machine: leave From out")
	case r.CPUs < 0:
		return invalid(op, on, "CPUs %d is negative", r.CPUs)
	}
	if r.MemoryBytes != 0 {
		if e := checkMemory(op, on, "MemoryBytes", r.MemoryBytes); e != nil {
			return e
		}
	}
	if r.Customize != nil {
		for _, a := range r.Customize.Addresses {
			if a != (netip.Prefix{}) && !a.IsValid() {
				return invalid(op, on, "Customize.Addresses: %v is no address with a prefix length such as 192.0.2.7/24", a)
			}
		}
		if w := r.Customize.Windows; w != nil && (w.TimeZone < 0 || w.Workgroup == "" || w.Owner == "") {
			return invalid(op, on, "Customize.Windows: give TimeZone (0 or more), Workgroup and Owner")
		}
	}
	return nil
}

func checkMigrate(op op.Name, m *VM, o MigrateOptions) *Error {
	on := m.Ref()
	switch {
	case o.Host == "" && o.Storage == "" && o.Pool == "" && o.To == nil:
		return invalid(op, on, "no destination: set Host, Storage, Pool or To")
	case o.To == m.c:
		return invalid(op, on, "To is the Client that the machine is on: leave it out")
	case o.To != nil && o.To.name != m.c.name:
		return invalid(op, on, "To is a Client of driver %s, the machine's is %s: export and import between kinds", o.To.name, m.c.name)
	case o.To != nil && o.Host == "":
		return invalid(op, on, "Host is empty: name the host of the other Client")
	case o.Mode > MigrateModeCold:
		return invalid(op, on, "Mode %d: use MigrateModeAuto, MigrateModeLive or MigrateModeCold", o.Mode)
	case o.MaxDowntime < 0 || o.BandwidthBytes < 0 || o.Timeout < 0 || o.Channels < 0:
		return invalid(op, on, "MaxDowntime, BandwidthBytes, Timeout and Channels must not be negative")
	case o.Mode == MigrateModeCold && (o.PostCopy || o.AutoConverge || o.Compress || o.Channels != 0 || o.MaxDowntime != 0):
		return invalid(op, on, "PostCopy, AutoConverge, Compress, Channels and MaxDowntime are for live migration, Mode is Cold")
	}
	return nil
}

var hex4 = regexp.MustCompile(`^[0-9A-Fa-f]{4}$`)

func checkDevice(op op.Name, on Ref, r DeviceRequest) *Error {
	switch {
	case r == (DeviceRequest{}):
		return invalid(op, on, "an empty request matches every device: give an ID, vendor and product, class, or profile")
	case r.ID != "" && (r.Vendor != "" || r.Product != "" || r.Class != ""):
		return invalid(op, on, "ID and kind (vendor, product, class) contradict each other: choose one")
	case r.Vendor != "" && !hex4.MatchString(r.Vendor) || r.Product != "" && !hex4.MatchString(r.Product):
		return invalid(op, on, "vendor %q and product %q: give four hex digits each, as in 10de and 2330", r.Vendor, r.Product)
	case r.Profile != "" && r.VirtualFunction:
		return invalid(op, on, "Profile and VirtualFunction contradict each other: choose one")
	}
	return nil
}

func checkVolume(s VolumeSpec) *Error {
	const op = op.VolumeCreate
	on := Ref{Kind: ObjectVolume, Name: s.Name}
	if e := checkNewName(op, on, "name", s.Name); e != nil {
		return e
	}
	if s.Datastore == "" {
		return invalid(op, on, "Datastore is empty: name the datastore of the new image")
	}
	if s.From == "" || s.SizeBytes != 0 {
		return checkSize(op, on, "SizeBytes", s.SizeBytes)
	}
	return nil
}
