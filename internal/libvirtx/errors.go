//go:build cgo

package libvirtx

import (
	"errors"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Codes of libvirt (virErrorNumber) that determine the class by themselves.
var kinds = map[libvirt.ErrorNumber]hypervisor.Kind{
	libvirt.ERR_NO_DOMAIN:             hypervisor.ErrNotFound,
	libvirt.ERR_NO_DOMAIN_SNAPSHOT:    hypervisor.ErrNotFound,
	libvirt.ERR_NO_DOMAIN_METADATA:    hypervisor.ErrNotFound,
	libvirt.ERR_NO_STORAGE_POOL:       hypervisor.ErrNotFound,
	libvirt.ERR_NO_STORAGE_VOL:        hypervisor.ErrNotFound,
	libvirt.ERR_NO_NETWORK:            hypervisor.ErrNotFound,
	libvirt.ERR_NO_INTERFACE:          hypervisor.ErrNotFound,
	libvirt.ERR_NO_NODE_DEVICE:        hypervisor.ErrNotFound,
	libvirt.ERR_DEVICE_MISSING:        hypervisor.ErrNotFound,
	libvirt.ERR_DOM_EXIST:             hypervisor.ErrExists,
	libvirt.ERR_STORAGE_VOL_EXIST:     hypervisor.ErrExists,
	libvirt.ERR_NETWORK_EXIST:         hypervisor.ErrExists,
	libvirt.ERR_INVALID_ARG:           hypervisor.ErrInvalidArgument,
	libvirt.ERR_XML_ERROR:             hypervisor.ErrInvalidArgument,
	libvirt.ERR_XML_DETAIL:            hypervisor.ErrInvalidArgument,
	libvirt.ERR_XML_INVALID_SCHEMA:    hypervisor.ErrInvalidArgument,
	libvirt.ERR_INVALID_MAC:           hypervisor.ErrInvalidArgument,
	libvirt.ERR_OPERATION_INVALID:     hypervisor.ErrInvalidState,
	libvirt.ERR_NO_SUPPORT:            hypervisor.ErrUnsupported,
	libvirt.ERR_OPERATION_UNSUPPORTED: hypervisor.ErrUnsupported,
	libvirt.ERR_CONFIG_UNSUPPORTED:    hypervisor.ErrUnsupported,
	libvirt.ERR_ARGUMENT_UNSUPPORTED:  hypervisor.ErrUnsupported,
	libvirt.ERR_RESOURCE_BUSY:         hypervisor.ErrBusy,
	libvirt.ERR_BLOCK_COPY_ACTIVE:     hypervisor.ErrBusy,
	libvirt.ERR_MIGRATE_UNSAFE:        hypervisor.ErrIncompatible,
	libvirt.ERR_CPU_INCOMPATIBLE:      hypervisor.ErrIncompatible,
	libvirt.ERR_AUTH_FAILED:           hypervisor.ErrUnauthenticated,
	libvirt.ERR_AUTH_CANCELLED:        hypervisor.ErrUnauthenticated,
	libvirt.ERR_AUTH_UNAVAILABLE:      hypervisor.ErrUnauthenticated,
	libvirt.ERR_ACCESS_DENIED:         hypervisor.ErrPermission,
	libvirt.ERR_OPERATION_DENIED:      hypervisor.ErrPermission,
	libvirt.ERR_NO_MEMORY:             hypervisor.ErrExhausted,
	libvirt.ERR_NO_CONNECT:            hypervisor.ErrUnavailable,
	libvirt.ERR_INVALID_CONN:          hypervisor.ErrUnavailable,
	libvirt.ERR_UNKNOWN_HOST:          hypervisor.ErrUnavailable,
	libvirt.ERR_RPC:                   hypervisor.ErrUnavailable,
	libvirt.ERR_GNUTLS_ERROR:          hypervisor.ErrUnavailable,
	libvirt.ERR_SSH:                   hypervisor.ErrUnavailable,
	libvirt.ERR_LIBSSH:                hypervisor.ErrUnavailable,
	libvirt.ERR_AGENT_UNRESPONSIVE:    hypervisor.ErrUnsupported,
	libvirt.ERR_AGENT_UNSYNCED:        hypervisor.ErrUnavailable,
	libvirt.ERR_AGENT_COMMAND_TIMEOUT: hypervisor.ErrTimeout,
	libvirt.ERR_OPERATION_ABORTED:     hypervisor.ErrCanceled,
}

// Texts that determine the class where the code is not specific enough. They
// are the untranslated messages of libvirt, QEMU, and libvirt's Xen driver.
var texts = []struct {
	text string
	kind hypervisor.Kind
}{
	{"cannot acquire state change lock", hypervisor.ErrBusy},
	{"has active block job", hypervisor.ErrBusy},
	{"asynchronous jobs running", hypervisor.ErrBusy},
	{"still being allocated", hypervisor.ErrBusy}, // a volume whose copy is still running
	{"already in use", hypervisor.ErrBusy},
	{"is in use by", hypervisor.ErrBusy},
	{": device in use", hypervisor.ErrBusy}, // a mediated device
	{"Failed to get \"write\" lock", hypervisor.ErrBusy},
	{"Failed to get shared \"write\" lock", hypervisor.ErrBusy},
	{"already exists", hypervisor.ErrExists},
	{"is already defined", hypervisor.ErrExists},
	{"No space left", hypervisor.ErrExhausted},
	{"Cannot allocate memory", hypervisor.ErrExhausted},
	{"not enough space", hypervisor.ErrExhausted},
	{"No more available PCI slots", hypervisor.ErrExhausted},
	{"canceled by client", hypervisor.ErrCanceled},
	{"client socket is closed", hypervisor.ErrUnavailable},
	{"keepalive timeout", hypervisor.ErrUnavailable},
	{"End of file while reading data", hypervisor.ErrUnavailable},
	{"unable to connect to server", hypervisor.ErrUnavailable},
	{"Failed to connect socket", hypervisor.ErrUnavailable},
	{"File name too long", hypervisor.ErrInvalidArgument},
	{"No such file or directory", hypervisor.ErrNotFound},
	{"domain is not running", hypervisor.ErrInvalidState},
	{"cannot migrate domain", hypervisor.ErrIncompatible},
	{"unexpectedly closed the monitor", hypervisor.ErrUnavailable}, // QEMU has ended
	{"Lost connection to destination host", hypervisor.ErrUnavailable},
	{"job 'migration out' failed", hypervisor.ErrUnavailable}, // reported by the source: the other end is gone
	{"job 'migration out' unexpectedly failed", hypervisor.ErrUnavailable},
	{"no FLR, PM reset or bus reset available", hypervisor.ErrUnsupported},
	{"because libxenlight will suspend it", hypervisor.ErrInvalidState},
	{"requested vcpus is greater than max allowable", hypervisor.ErrInvalidArgument},
}

// Texts of libvirt, GnuTLS, ssh and libssh for one end that does not trust
// the other. Their codes are those of a broken connection, but trying again
// does not help.
var untrusted = []string{
	"Certificate failed validation",
	"owner does not match the hostname",
	"Failed to verify peer's certificate",
	"Unable to read TLS confirmation", // the server did not accept the client's certificate, or there was none, and hung up
	"verification (of our certificate or IP address) failed",
	"Host key verification failed",
	"HOST KEY VERIFICATION FAILED",
	"Can't verify the session host key",
	"Permission denied (",
}

// Kind classifies a libvirt error.
func Kind(err error) hypervisor.Kind {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return hypervisor.ErrUnknown
	}
	for _, t := range untrusted {
		if strings.Contains(e.Message, t) {
			return hypervisor.ErrUnauthenticated
		}
	}
	if Lost(err) {
		return hypervisor.ErrUnavailable
	}
	for _, t := range texts {
		if strings.Contains(e.Message, t.text) {
			return t.kind
		}
	}
	if e.Code == libvirt.ERR_OPERATION_TIMEOUT {
		return hypervisor.ErrTimeout
	}
	return kinds[e.Code]
}

// KindOf is like Kind, for errors that may have a class already.
func KindOf(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.ErrUnknown {
		return k
	}
	return Kind(err)
}

// Lost reports whether the connection broke, so that a new one may help.
func Lost(err error) bool {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case libvirt.ERR_NO_CONNECT, libvirt.ERR_INVALID_CONN:
		return true
	case libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_RPC, libvirt.ERR_SYSTEM_ERROR:
		if e.Domain == libvirt.FROM_RPC || e.Domain == libvirt.FROM_REMOTE {
			return true
		}
		return strings.Contains(e.Message, "client socket is closed") || strings.Contains(e.Message, "keepalive timeout") ||
			strings.Contains(e.Message, "End of file while reading data") || strings.Contains(e.Message, "Cannot write data: Broken pipe")
	}
	return false
}

// Is reports whether err is a libvirt error with this code.
func Is(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == code
}

// NotFound reports whether err means that the object does not exist.
func NotFound(err error) bool { return Kind(err) == hypervisor.ErrNotFound }
