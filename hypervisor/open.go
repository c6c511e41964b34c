package hypervisor

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
)

var registry struct {
	sync.RWMutex
	openers map[string]Opener
}

// Register makes a driver known under a URL scheme. Driver packages call it
// from init. It panics if the scheme is taken: two drivers in one program
// would answer to one name.
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

// Open connects to the hypervisor at a URL. The scheme names the driver, whose
// package must be imported; it documents the rest of the URL.
func Open(ctx context.Context, rawURL string, o *Options) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // its text has the whole URL, secrets included
			err = ue.Err
		}
		return nil, invalid("open", Ref{Kind: KindOfClient}, "the URL can't be parsed: %w", err)
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
	on := Ref{Kind: KindOfClient, ID: u.Redacted()}
	if !ok {
		return nil, invalid("open", on, "no driver is registered for scheme %q: import its package (registered: %s)",
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
			c.Op = "open"
			if c.Object == (Ref{}) {
				c.Object = on
			}
			return nil, &c
		}
		return nil, &Error{Op: "open", Object: on, Kind: KindUnavailable, Err: err}
	}
	return New(ctx, d, o)
}

// New makes a Client of a driver. Driver packages call it from their Open. If
// a capability in Options.Require is missing the driver is closed.
func New(ctx context.Context, d Driver, o *Options) (*Client, error) {
	c := &Client{d: d, name: d.Describe().Driver}
	if o == nil {
		return c, nil
	}
	c.log, c.observ = o.Logger, o.Observer
	for _, k := range o.Require {
		s, err := c.Supports(ctx, k, Ref{})
		if err == nil && s.Level != Yes && s.Level != Partial {
			e := Unsupported(Ref{Kind: KindOfClient, ID: d.Describe().Endpoint}, k, s.Reason, s.Detail)
			e.Op = "open"
			err = e
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}
