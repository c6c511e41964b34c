//go:build cgo

package libvirtx

import (
	"errors"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Codes of libvirt (virErrorNumber) that belong to one class by themselves.
var kinds = map[libvirt.ErrorNumber]hypervisor.Kind{
	libvirt.ERR_NO_DOMAIN:             hypervisor.KindNotFound,
	libvirt.ERR_NO_DOMAIN_SNAPSHOT:    hypervisor.KindNotFound,
	libvirt.ERR_NO_DOMAIN_METADATA:    hypervisor.KindNotFound,
	libvirt.ERR_NO_STORAGE_POOL:       hypervisor.KindNotFound,
	libvirt.ERR_NO_STORAGE_VOL:        hypervisor.KindNotFound,
	libvirt.ERR_NO_NETWORK:            hypervisor.KindNotFound,
	libvirt.ERR_NO_INTERFACE:          hypervisor.KindNotFound,
	libvirt.ERR_NO_NODE_DEVICE:        hypervisor.KindNotFound,
	libvirt.ERR_DEVICE_MISSING:        hypervisor.KindNotFound,
	libvirt.ERR_DOM_EXIST:             hypervisor.KindExists,
	libvirt.ERR_STORAGE_VOL_EXIST:     hypervisor.KindExists,
	libvirt.ERR_NETWORK_EXIST:         hypervisor.KindExists,
	libvirt.ERR_INVALID_ARG:           hypervisor.KindInvalidArgument,
	libvirt.ERR_XML_ERROR:             hypervisor.KindInvalidArgument,
	libvirt.ERR_XML_DETAIL:            hypervisor.KindInvalidArgument,
	libvirt.ERR_XML_INVALID_SCHEMA:    hypervisor.KindInvalidArgument,
	libvirt.ERR_INVALID_MAC:           hypervisor.KindInvalidArgument,
	libvirt.ERR_OPERATION_INVALID:     hypervisor.KindInvalidState,
	libvirt.ERR_NO_SUPPORT:            hypervisor.KindUnsupported,
	libvirt.ERR_OPERATION_UNSUPPORTED: hypervisor.KindUnsupported,
	libvirt.ERR_CONFIG_UNSUPPORTED:    hypervisor.KindUnsupported,
	libvirt.ERR_ARGUMENT_UNSUPPORTED:  hypervisor.KindUnsupported,
	libvirt.ERR_RESOURCE_BUSY:         hypervisor.KindBusy,
	libvirt.ERR_BLOCK_COPY_ACTIVE:     hypervisor.KindBusy,
	libvirt.ERR_MIGRATE_UNSAFE:        hypervisor.KindIncompatible,
	libvirt.ERR_CPU_INCOMPATIBLE:      hypervisor.KindIncompatible,
	libvirt.ERR_AUTH_FAILED:           hypervisor.KindUnauthenticated,
	libvirt.ERR_AUTH_CANCELLED:        hypervisor.KindUnauthenticated,
	libvirt.ERR_AUTH_UNAVAILABLE:      hypervisor.KindUnauthenticated,
	libvirt.ERR_ACCESS_DENIED:         hypervisor.KindPermission,
	libvirt.ERR_OPERATION_DENIED:      hypervisor.KindPermission,
	libvirt.ERR_NO_MEMORY:             hypervisor.KindExhausted,
	libvirt.ERR_NO_CONNECT:            hypervisor.KindUnavailable,
	libvirt.ERR_INVALID_CONN:          hypervisor.KindUnavailable,
	libvirt.ERR_UNKNOWN_HOST:          hypervisor.KindUnavailable,
	libvirt.ERR_RPC:                   hypervisor.KindUnavailable,
	libvirt.ERR_GNUTLS_ERROR:          hypervisor.KindUnavailable,
	libvirt.ERR_SSH:                   hypervisor.KindUnavailable,
	libvirt.ERR_LIBSSH:                hypervisor.KindUnavailable,
	libvirt.ERR_AGENT_UNRESPONSIVE:    hypervisor.KindUnsupported,
	libvirt.ERR_AGENT_UNSYNCED:        hypervisor.KindUnavailable,
	libvirt.ERR_AGENT_COMMAND_TIMEOUT: hypervisor.KindTimeout,
	libvirt.ERR_OPERATION_ABORTED:     hypervisor.KindCanceled,
}

// Texts that decide where the code says too little. They are the untranslated
// messages of libvirt, QEMU, and libvirt's Xen driver.
var texts = []struct {
	text string
	kind hypervisor.Kind
}{
	{"cannot acquire state change lock", hypervisor.KindBusy},
	{"has active block job", hypervisor.KindBusy},
	{"asynchronous jobs running", hypervisor.KindBusy},
	{"still being allocated", hypervisor.KindBusy}, // a volume whose copy goes on
	{"already in use", hypervisor.KindBusy},
	{"is in use by", hypervisor.KindBusy},
	{": device in use", hypervisor.KindBusy}, // a mediated device
	{"Failed to get \"write\" lock", hypervisor.KindBusy},
	{"Failed to get shared \"write\" lock", hypervisor.KindBusy},
	{"already exists", hypervisor.KindExists},
	{"is already defined", hypervisor.KindExists},
	{"No space left", hypervisor.KindExhausted},
	{"Cannot allocate memory", hypervisor.KindExhausted},
	{"not enough space", hypervisor.KindExhausted},
	{"No more available PCI slots", hypervisor.KindExhausted},
	{"canceled by client", hypervisor.KindCanceled},
	{"client socket is closed", hypervisor.KindUnavailable},
	{"keepalive timeout", hypervisor.KindUnavailable},
	{"End of file while reading data", hypervisor.KindUnavailable},
	{"unable to connect to server", hypervisor.KindUnavailable},
	{"Failed to connect socket", hypervisor.KindUnavailable},
	{"File name too long", hypervisor.KindInvalidArgument},
	{"No such file or directory", hypervisor.KindNotFound},
	{"domain is not running", hypervisor.KindInvalidState},
	{"cannot migrate domain", hypervisor.KindIncompatible},
	{"unexpectedly closed the monitor", hypervisor.KindUnavailable}, // QEMU has ended
	{"Lost connection to destination host", hypervisor.KindUnavailable},
	{"job 'migration out' failed", hypervisor.KindUnavailable}, // by the source: the other end is gone
	{"job 'migration out' unexpectedly failed", hypervisor.KindUnavailable},
	{"no FLR, PM reset or bus reset available", hypervisor.KindUnsupported},
	{"because libxenlight will suspend it", hypervisor.KindInvalidState},
	{"requested vcpus is greater than max allowable", hypervisor.KindInvalidArgument},
}

// Texts of libvirt, GnuTLS, ssh and libssh that say that one end does not trust
// the other. Their codes are those of a broken connection, and trying again
// does not help.
var untrusted = []string{
	"Certificate failed validation",
	"owner does not match the hostname",
	"Failed to verify peer's certificate",
	"Unable to read TLS confirmation", // the server has seen the client's certificate, or none, and hung up
	"verification (of our certificate or IP address) failed",
	"Host key verification failed",
	"HOST KEY VERIFICATION FAILED",
	"Can't verify the session host key",
	"Permission denied (",
}

// Kind puts a libvirt error into a class.
func Kind(err error) hypervisor.Kind {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return hypervisor.KindUnknown
	}
	for _, t := range untrusted {
		if strings.Contains(e.Message, t) {
			return hypervisor.KindUnauthenticated
		}
	}
	if Lost(err) {
		return hypervisor.KindUnavailable
	}
	for _, t := range texts {
		if strings.Contains(e.Message, t.text) {
			return t.kind
		}
	}
	if e.Code == libvirt.ERR_OPERATION_TIMEOUT {
		return hypervisor.KindTimeout
	}
	return kinds[e.Code]
}

// KindOf is Kind for errors that may have a class already.
func KindOf(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.KindUnknown {
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

// NotFound reports whether err says that the object is not there.
func NotFound(err error) bool { return Kind(err) == hypervisor.KindNotFound }
