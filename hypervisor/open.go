package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

var registry struct {
	sync.RWMutex
	openers map[string]Opener
}

// Register registers a driver under a URL scheme. Driver packages call it
// from init. It panics if the scheme is taken, because two drivers in one
// program would then answer to one name.
func Register(scheme string, open Opener) {
	registry.Lock()
	defer registry.Unlock()
	if registry.openers == nil {
		registry.openers = map[string]Opener{}
	}
	if _, dup := registry.openers[scheme]; dup {
		panic("hypervisor: scheme " + scheme + " is registered twice")
	}
	registry.openers[scheme] = open
}

// Schemes returns the URL schemes of the drivers in this program.
func Schemes() []string {
	registry.RLock()
	defer registry.RUnlock()
	var out []string
	for s := range registry.openers {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// Open connects to the hypervisor at a URL. The scheme names the driver,
// whose package must be imported. The package's documentation lists the forms
// and parameters of its URLs.
//
// In all drivers the login comes from Options.Credentials, or else from the
// URL's user info ("user:password@"), or else, where that has no password,
// from the environment variable ANYVISOR_PASSWORD. Write @, :, /, \, ? and #
// in a user name or password as %40, %3A, %2F, %5C, %3F and %23. A parameter
// that the driver does not know, or a value that is not valid, is
// ErrInvalidArgument. Errors, logs and Describe show the URL without its
// password and parameters.
//
// A URL is trusted input: it decides where a password is sent, and names
// files of this machine that are used to log in. Accept none from others.
func Open(ctx context.Context, rawURL string, o *Options) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil { // its text contains parts of the URL, which may be parts of the password
		return nil, invalid(op.ClientOpen, Ref{Kind: ObjectClient}, `the URL can't be parsed: write @ : / \ ? # %% and spaces in a user name or password as %%40 %%3A %%2F %%5C %%3F %%23 %%25 %%20`)
	}
	switch {
	case u.Opaque != "":
		return nil, invalid(op.ClientOpen, Ref{Kind: ObjectClient}, "the URL has no // after its scheme: scheme://user@host/")
	case u.Fragment != "" || strings.Contains(u.Path, "@"): // a password that was not escaped ends at # or /
		return nil, invalid(op.ClientOpen, Ref{Kind: ObjectClient}, "the URL has a # or an @ after its host: write # and / in a user name or password as %%23 and %%2F")
	}
	registry.RLock()
	open, ok := registry.openers[u.Scheme]
	registry.RUnlock()
	if !ok {
		base, _, _ := strings.Cut(u.Scheme, "+")
		registry.RLock()
		open, ok = registry.openers[base]
		registry.RUnlock()
	}
	on := Ref{Kind: ObjectClient, ID: shown(u)}
	if !ok {
		return nil, invalid(op.ClientOpen, on, "no driver is registered for scheme %q: import its package (registered: %s)",
			u.Scheme, strings.Join(Schemes(), ", "))
	}
	if o == nil {
		o = &Options{}
	}
	d, err := open(ctx, u, o)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			c := *e
			c.Op = op.ClientOpen
			if c.Object == (Ref{}) {
				c.Object = on
			}
			return nil, &c
		}
		e = &Error{Op: op.ClientOpen, Object: on, Kind: ErrUnavailable, Err: err}
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // the caller gave up, so this is not the server's failure
			e.Kind = ErrUnknown
		}
		return nil, e
	}
	return New(ctx, d, o)
}

// shown returns a URL without secrets: a parameter may be a mistyped one.
func shown(u *url.URL) string {
	s := *u
	s.RawQuery, s.Fragment, s.RawFragment = "", "", ""
	if u.User != nil {
		s.User = url.User(u.User.Username())
	}
	return s.String()
}

// New makes a Client of a driver. Driver packages call it from their Open. If
// a capability in Options.Require is missing, the driver is closed.
func New(ctx context.Context, d Driver, o *Options) (*Client, error) {
	c := &Client{d: d, name: d.Describe().Driver}
	if o == nil {
		return c, nil
	}
	c.log, c.observ = o.Logger, o.Observer
	for _, k := range o.Require {
		s, err := c.Supports(ctx, k, Ref{})
		if err == nil && s.Level != LevelYes && s.Level != LevelPartial {
			e := Unsupported(Ref{Kind: ObjectClient, ID: d.Describe().Endpoint}, k, s.Reason, s.Detail)
			e.Op = op.ClientOpen
			err = e
		}
		if err != nil {
			if cerr := c.Close(); cerr != nil {
				err = fmt.Errorf("%w (and Close: %w)", err, cerr)
			}
			return nil, err
		}
	}
	return c, nil
}
