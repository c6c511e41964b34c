package hypervisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Options are the optional settings of Open and New. The zero value is a usable default.
type Options struct {
	// Require makes Open and New fail unless each of these is at least
	// LevelPartial for the whole Client, so that a program finds out when it
	// starts.
	Require []capability.Name
	// Credentials replace those in the URL or the driver's Config.
	Credentials *Credentials
	// Logger receives one record for each operation (Debug; Warn if it
	// failed). Nil means no logging.
	Logger *slog.Logger
	// Observer is called when an operation begins and when it ends.
	Observer Observer
}

// Credentials are a login. They print as "user:***".
type Credentials struct {
	Username string
	Password Secret
}

// String hides the password.
func (c Credentials) String() string { return c.Username + ":***" }

// GoString hides the password.
func (c Credentials) GoString() string { return c.String() }

// Format hides the password, whatever the verb is.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

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
	work   work      // for Shutdown

	mu   sync.Mutex
	open map[*observed]struct{} // operations whose end was not reported yet
}

// Describe returns the product and endpoint that the Client is connected to.
// It makes no call.
func (c *Client) Describe() Description { return c.d.Describe() }

// The time that Close may take. ownLimit, together with the driver's group,
// which takes groupLimit at most, stays below closeLimit.
const (
	closeLimit = 5 * time.Second
	ownLimit   = 500 * time.Millisecond
)

// Close ends the session. Work that the platform carries out by itself
// continues, as it would if this process were killed. Work that needs this
// process (composed work such as Evacuate, a live migration that the Client's
// connection carries) is cancelled and undone: the object is then as before,
// or the work is complete, never half done. Close returns within 5 seconds
// whatever the servers do. What could not be undone in that time is left as
// after a kill, for the next Client to finish, and Close's error names it
// (Leftover). A second Close does nothing. To let the work end first, use
// Shutdown.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	late := time.NewTimer(closeLimit)
	defer late.Stop()
	c.group.close(ownLimit) // what it leaves are tasks of the driver, which names them
	closed := make(chan error, 1)
	go func() { closed <- c.d.Close() }()
	var err error
	select {
	case err = <-closed:
	case <-late.C:
		err = Errorf(ErrTimeout, Ref{}, "the driver did not close within %v", closeLimit)
	}
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for o := range open {
		o.finish(nil)
	}
	return c.wrap(op.ClientClose, Ref{Kind: ObjectClient}, err)
}

// As returns the native object behind v, such as a *libvirt.Domain or an
// *object.VirtualMachine, for what this package does not cover. v is anything
// with a Ref: a Client (the connection itself), a handle such as a *VM, or an
// ID. Each driver package documents its types; a type that it does not offer
// for v is ErrUnsupported.
func As[T any](ctx context.Context, c *Client, v interface{ Ref() Ref }) (T, error) {
	var t T
	ctx, sp, err := c.begin(ctx, op.ClientAs, v.Ref())
	if err != nil {
		return t, err
	}
	err = c.d.As(ctx, v.Ref(), &t)
	return t, sp.end(c.wrap(op.ClientAs, v.Ref(), err))
}

// Ref is the zero Ref, which means the Client itself.
func (c *Client) Ref() Ref { return Ref{} }
