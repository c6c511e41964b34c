package fake

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func init() { hypervisor.Register("fake", openURL) }

// Driver is a session on a Backend. It implements hypervisor.Driver and all
// of its optional interfaces. Tests embed it to change one behaviour.
type Driver struct {
	b      *Backend
	closed atomic.Bool
	done   chan struct{} // closed by Close
	file   *stateFile    // nil unless a file keeps the backend
}

// Driver has all abilities.
var _ interface {
	hypervisor.Driver
	hypervisor.Lifecycle
	hypervisor.Powerer
	hypervisor.Reconfigurer
	hypervisor.Labeler
	hypervisor.DiskAttacher
	hypervisor.NICAttacher
	hypervisor.Snapshotter
	hypervisor.Cloner
	hypervisor.Templater
	hypervisor.Migrator
	hypervisor.DeviceAssigner
	hypervisor.DevicePreparer
	hypervisor.HostLister
	hypervisor.Maintainer
	hypervisor.StorageManager
	hypervisor.DependencyLister
	hypervisor.NetworkLister
	hypervisor.Watcher
	hypervisor.GuestAgent
	hypervisor.Freezer
	hypervisor.Placer
} = (*Driver)(nil)

// named holds the backends that URLs share.
var named struct {
	sync.Mutex
	m map[string]namedBackend
}

type namedBackend struct {
	b     *Backend
	query string
}

func openURL(_ context.Context, u *url.URL, _ *hypervisor.Options) (hypervisor.Driver, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: "fake://" + u.Host}
	file := u.Path != "" && u.Path != "/"
	if file && u.Host != "" {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "a name and the path %q exclude each other: use fake://name, or fake:///path/of/a/file", u.Path)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the parameters can't be parsed: %w", err)
	}
	cfg, err := parse(q)
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%w", err)
	}
	if file {
		return openStateFile(statePath(u), cfg, q.Encode())
	}
	if u.Host == "" {
		return New(cfg).Driver(), nil
	}
	named.Lock()
	defer named.Unlock()
	n, ok := named.m[u.Host]
	switch {
	case ok && len(q) > 0 && n.query != q.Encode():
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the backend %q exists with other parameters (%q): leave them out", u.Host, n.query)
	case !ok:
		cfg.Name = u.Host
		n = namedBackend{New(cfg), q.Encode()}
		if named.m == nil {
			named.m = map[string]namedBackend{}
		}
		named.m[u.Host] = n
	}
	return n.b.Driver(), nil
}

func parse(q url.Values) (cfg Config, err error) {
	for k, v := range q {
		if len(v) > 1 {
			return cfg, fmt.Errorf("the parameter %s is given %d times", k, len(v))
		}
		switch s := v[0]; k {
		case "hosts":
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > 1000 {
				return cfg, fmt.Errorf("hosts=%q: give a number from 1 to 1000", s)
			}
			cfg.Hosts = DefaultHosts(n)
		case "seed":
			if cfg.Seed, err = strconv.ParseUint(s, 10, 64); err != nil {
				return cfg, fmt.Errorf("seed=%q: give a whole number", s)
			}
		case "edition":
			if _, ok := editions[s]; !ok {
				return cfg, fmt.Errorf("edition=%q: say full, standard or free", s)
			}
			cfg.Edition = s
		case "delay":
			d, err := time.ParseDuration(s)
			if err != nil || d < 0 {
				return cfg, fmt.Errorf("delay=%q: give a duration such as 2s", s)
			}
			cfg.Delays = map[op.Name]time.Duration{"*": d}
		default:
			return cfg, fmt.Errorf("unknown parameter %q: hosts, seed, edition and delay are known", k)
		}
	}
	return cfg, nil
}

// Describe returns the backend's name.
func (d *Driver) Describe() hypervisor.Description {
	return hypervisor.Description{Driver: "fake", Product: "Anyvisor fake", Version: version, Endpoint: d.b.cfg.Name}
}

// As supports *Driver and *Backend, for any object.
func (d *Driver) As(_ context.Context, on hypervisor.Ref, target any) error {
	switch t := target.(type) {
	case **Driver:
		*t = d
	case **Backend:
		*t = d.b
	default:
		return hypervisor.NoNative(on, target)
	}
	return nil
}

// Close ends the session. Tasks continue in the backend. Where a file keeps
// the backend, the last Close in the process saves it, as MarshalJSON does, and
// returns an error if it can't.
func (d *Driver) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	close(d.done)
	if d.file == nil {
		return nil
	}
	return d.file.close()
}
