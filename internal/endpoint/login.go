package endpoint

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// PasswordVariable is the environment variable with the password for a URL
// that has none.
const PasswordVariable = "ANYVISOR_PASSWORD"

// UserInfo returns the user and the password of a URL. The password is from
// the environment where the URL has none.
func UserInfo(u *url.URL) (username string, password hypervisor.Secret) {
	username = u.User.Username()
	word, ok := u.User.Password()
	if !ok {
		word = os.Getenv(PasswordVariable)
	}
	return username, hypervisor.Secret(word)
}

// Address returns a URL without secrets, for errors and logs.
func Address(scheme, username string, hosts ...string) string {
	u := url.URL{Scheme: scheme, Host: strings.Join(hosts, ",")}
	if username != "" {
		u.User = url.User(username)
	}
	return u.String()
}

// Login replaces a Config's user and password by Options.Credentials.
func Login(o *hypervisor.Options, username *string, password *hypervisor.Secret) {
	if o != nil && o.Credentials != nil {
		*username, *password = o.Credentials.Username, o.Credentials.Password
	}
}

// Client ends a driver's Open: it makes a Client of the driver, or gives err
// the same form as hypervisor.Open. where is the address, without secrets.
func Client(ctx context.Context, d hypervisor.Driver, err error, where string, o *hypervisor.Options) (*hypervisor.Client, error) {
	if err == nil {
		return hypervisor.New(ctx, d, o)
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: where}
	var e *hypervisor.Error
	if !errors.As(err, &e) {
		e = &hypervisor.Error{Op: op.ClientOpen, Object: on, Kind: hypervisor.ErrUnavailable, Err: err}
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // the caller gave up, so this is not the server's failure
			e.Kind = hypervisor.ErrUnknown
		}
		return nil, e
	}
	c := *e
	c.Op = op.ClientOpen
	if c.Object == (hypervisor.Ref{}) {
		c.Object = on
	}
	return nil, &c
}
