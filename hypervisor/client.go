package hypervisor

import (
	"log/slog"
	"sync"
	"sync/atomic"
)

// Options for Open and New. The zero value asks for nothing.
type Options struct {
	// Require makes Open and New fail when one of these is not at least
	// Partial for the whole Client, so that a program learns at its start.
	Require []Capability
	// Credentials take the place of those in the URL.
	Credentials *Credentials
	// Logger gets one record for each operation (Debug; Warn if it failed).
	// Nil is silent.
	Logger *slog.Logger
	// Observer sees every operation begin and end.
	Observer Observer
}

// Credentials log in. They print as "user:***".
type Credentials struct {
	Username string
	Password string
}

// String hides the password.
func (c Credentials) String() string { return c.Username + ":***" }

// GoString hides the password.
func (c Credentials) GoString() string { return c.String() }

// LogValue hides the password.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Client is one management domain: a vCenter or ESXi host, a XAPI pool, a
// list of libvirt hosts, a list of Hyper-V hosts or a failover cluster. It is
// safe for concurrent use.
type Client struct {
	d      Driver
	name   string
	log    *slog.Logger
	observ Observer
	closed atomic.Bool
	group  TaskGroup // work that this package composes

	mu   sync.Mutex
	open map[*observed]struct{} // operations whose end was not told yet
}

// Describe says what the Client is connected to. It makes no call.
func (c *Client) Describe() Description { return c.d.Describe() }

// Close ends the session. Work in the hypervisor goes on; work that this
// package composes (Evacuate) ends with ErrClosed. A second Close does
// nothing.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.group.Close()
	err := c.d.Close()
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for o := range open {
		o.finish(nil)
	}
	return c.wrap("close", Ref{Kind: KindOfClient}, err)
}

// As returns the native object behind a Client or VM, such as a
// *libvirt.Domain or *object.VirtualMachine, for what this package does not
// cover. Each driver package documents its types.
func As[T any](v interface{ as(target any) bool }) (T, bool) {
	var t T
	ok := v.as(&t)
	return t, ok
}

func (c *Client) as(target any) bool { return c.d.As(Ref{}, target) }
func (m *VM) as(target any) bool     { return m.c.d.As(m.ref(), target) }
func (h *Host) as(target any) bool   { return h.c.d.As(h.id.Ref(), target) }
