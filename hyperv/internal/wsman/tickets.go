package wsman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	krbclient "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// KerberosConfig is the source of Kerberos' settings and the user's key.
// Without Keytab and CCache the password of the Config is used, and without
// that the user's own credential cache.
type KerberosConfig struct {
	// ConfigFile is krb5.conf; empty means $KRB5_CONFIG or /etc/krb5.conf.
	ConfigFile string
	Realm      string // empty: the part of the user after @, or the default realm
	Keytab     string // a keytab file
	CCache     string // a credential cache file
	SPN        string // empty: HTTP/host
}

// tickets gets tickets for one host. The library's client is not safe for
// concurrent use, and has no contexts: it gives up on a KDC after some
// seconds.
type tickets struct {
	cfg  Config
	spn  string
	open func() (*krbclient.Client, time.Time, error) // the time is when its tickets end, or zero

	turn   chan struct{}     // full: somebody is using the fields below
	client *krbclient.Client // nil: open before the next use
	ends   time.Time

	stale  atomic.Bool // drop client before the next use
	closed context.Context
	stop   context.CancelFunc
}

// newTickets reads the files once, to refuse an invalid configuration. A
// credential cache is read again when its tickets have ended.
func newTickets(cfg Config) (*tickets, error) {
	kc := cfg.Krb
	file := kc.ConfigFile
	if file == "" {
		file = os.Getenv("KRB5_CONFIG")
	}
	if file == "" {
		file = "/etc/krb5.conf"
	}
	conf, err := loaded("configuration", file, config.Load)
	if err != nil {
		return nil, err
	}
	_, user := splitUser(cfg.User) // a domain's short name is not a realm
	user, realm, _ := strings.Cut(user, "@")
	if kc.Realm != "" {
		realm = kc.Realm
	}
	if realm == "" {
		realm = conf.LibDefaults.DefaultRealm
	}
	t := &tickets{cfg: cfg, spn: kc.SPN, turn: make(chan struct{}, 1)}
	t.closed, t.stop = context.WithCancel(context.Background())
	if t.spn == "" {
		t.spn = "HTTP/" + cfg.Host
	}
	// Active Directory does not answer the FAST negotiation as RFC 6806
	// requires.
	noFAST := krbclient.DisablePAFXFAST(true)
	if kc.CCache == "" && kc.Keytab == "" && cfg.Password == "" {
		if kc.CCache, err = ownCache(); err != nil {
			return nil, err
		}
		t.cfg.Krb.CCache = kc.CCache
	}
	switch {
	case kc.CCache != "":
		t.open = func() (*krbclient.Client, time.Time, error) {
			cc, err := loaded("credential cache", kc.CCache, credentials.LoadCCache)
			if err != nil {
				return nil, time.Time{}, err
			}
			// Services' tickets may be older than the services' keys.
			tgt := types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", cc.DefaultPrincipal.Realm}}
			cc.Credentials = slices.DeleteFunc(cc.Credentials, func(c *credentials.Credential) bool { return !c.Server.PrincipalName.Equal(tgt) })
			c, err := krbclient.NewFromCCache(cc, conf, noFAST)
			if err != nil {
				return nil, time.Time{}, fmt.Errorf("wsman: Kerberos credential cache: %w", err)
			}
			return c, cc.Credentials[0].EndTime, nil
		}
	case kc.Keytab != "":
		kt, err := loaded("keytab", kc.Keytab, keytab.Load)
		if err != nil {
			return nil, err
		}
		t.open = func() (*krbclient.Client, time.Time, error) {
			return krbclient.NewWithKeytab(user, realm, kt, conf, noFAST), time.Time{}, nil
		}
	default:
		t.open = func() (*krbclient.Client, time.Time, error) {
			return krbclient.NewWithPassword(user, realm, string(cfg.Password), conf, noFAST), time.Time{}, nil
		}
	}
	t.client, t.ends, err = t.open()
	return t, err
}

// maxFile is the largest size of a Kerberos file.
const maxFile = 16 << 20

// loaded reads a Kerberos file. The library panics at some files that are
// something else, and its errors contain lines of the file.
func loaded[T any](what, file string, load func(string) (T, error)) (out T, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("wsman: the file %s is no Kerberos %s", file, what)
		}
	}()
	i, err := os.Stat(file)
	switch {
	case err != nil:
		return out, fmt.Errorf("wsman: Kerberos %s: %w", what, err)
	case !i.Mode().IsRegular() || i.Size() > maxFile:
		return out, fmt.Errorf("wsman: the file %s is no Kerberos %s: it is no ordinary file, or too large", file, what)
	}
	var p *fs.PathError
	if out, err = load(file); errors.As(err, &p) {
		return out, fmt.Errorf("wsman: Kerberos %s: %w", what, err)
	} else if err != nil {
		return out, fmt.Errorf("wsman: the file %s is no Kerberos %s that can be read", file, what)
	}
	return out, nil
}

// ownCache returns the file in which Kerberos' tools keep this user's
// tickets.
func ownCache() (string, error) {
	name := os.Getenv("KRB5CCNAME")
	file, isFile := strings.CutPrefix(name, "FILE:")
	switch {
	case name == "":
		file = fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid())
	case !isFile && strings.Contains(name, ":"):
		return "", fmt.Errorf("wsman: the credential cache %s is no file: Kerberos needs a password, a keytab, or a credential cache in a file", name)
	}
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("wsman: Kerberos needs a password, a keytab or a credential cache: %w", err)
	}
	return file, nil
}

// begin makes a login's first token. If a ticket is still on its way when ctx
// ends, the next caller gets it.
func (t *tickets) begin(ctx context.Context, binding []byte) (*gssContext, []byte, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-t.closed.Done():
		return nil, nil, cim.ErrClosed
	}
	type result struct {
		g     *gssContext
		token []byte
		err   error
	}
	done := make(chan result, 1)
	go func() {
		g, token, err := t.fetch(binding)
		<-t.turn
		t.tidy()
		done <- result{g, token, err}
	}()
	select {
	case r := <-done:
		return r.g, r.token, r.err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-t.closed.Done():
		return nil, nil, cim.ErrClosed
	}
}

// fetch fetches a ticket. The caller holds the turn.
func (t *tickets) fetch(binding []byte) (*gssContext, []byte, error) {
	if t.stale.Swap(false) || t.client != nil && !t.ends.IsZero() && !time.Now().Before(t.ends) {
		t.drop()
	}
	if t.client == nil {
		var err error
		if t.client, t.ends, err = t.open(); err != nil {
			return nil, nil, t.refused(err)
		}
	}
	if !t.ends.IsZero() && !time.Now().Before(t.ends) {
		return nil, nil, t.refused(fmt.Errorf("the ticket in %s ended at %s: get a new one with kinit", t.cfg.Krb.CCache, t.ends.Format(time.DateTime)))
	}
	if err := t.cfg.Refusals.Check(t.cfg.Host); err != nil {
		return nil, nil, err
	}
	tkt, key, err := t.client.GetServiceTicket(t.spn)
	if err != nil {
		err = t.failed(err)
	}
	t.cfg.Refusals.Note(t.cfg.Host, refusal(err), err == nil)
	if err != nil {
		return nil, nil, err
	}
	g, token, err := newGSS(tkt, key, t.client.Credentials.Domain(), t.client.Credentials.CName(), binding)
	if err != nil {
		return nil, nil, t.refused(err)
	}
	return g, token, nil
}

// forget marks the tickets to be dropped: one that a host refuses may be
// older than the host's present key.
func (t *tickets) forget() { t.stale.Store(true) }

// drop drops the client. The caller holds the turn.
func (t *tickets) drop() {
	if t.client != nil {
		t.client.Destroy()
		t.client = nil
	}
}

// close drops the tickets. If one is on its way, the library gives up on it
// after some seconds, and they are dropped then.
func (t *tickets) close() {
	t.stop()
	t.tidy()
}

// tidy drops the tickets of a session that is closed, unless they are in use.
func (t *tickets) tidy() {
	if t.closed.Err() == nil {
		return
	}
	select {
	case t.turn <- struct{}{}:
		t.drop()
		<-t.turn
	default:
	}
}

func (t *tickets) refused(err error) error {
	return &LoginError{Host: t.cfg.Host, User: t.user(), Err: err}
}

func (t *tickets) user() string {
	switch {
	case t.cfg.User != "":
		return t.cfg.User
	case t.cfg.Krb.CCache != "":
		return "the user of " + t.cfg.Krb.CCache
	}
	return "nobody"
}

// Remedies for errors of KDCs and hosts (RFC 4120, 7.5.9).
var kerberosRemedies = map[int]string{
	6:  "the realm has no such user",
	7:  "the realm has no service %s: name the host as the directory does, or register that name for it",
	12: "the realm's policy forbids it: ask its administrator",
	14: "the KDC and this client have no encryption type in common: allow AES for the accounts of the user and of the host",
	18: "the account is disabled, locked or has ended",
	23: "the password has ended: set a new one",
	24: "wrong password or key",
	32: "the ticket has ended: get a new one",
	37: "the clocks of this machine, of the KDC and of the host differ by more than five minutes: set them",
	41: "the host has another key than the KDC: is %s registered for another account?",
	44: "the host has another key than the KDC: join it to the domain again",
}

// krbCode finds the code in an error of gokrb5, which keeps errors as text.
var krbCode = regexp.MustCompile(`KRB Error: \((\d+)\)`)

// failed distinguishes a refusal from a KDC that can't be reached.
func (t *tickets) failed(err error) error {
	text := err.Error()
	code := 0
	if m := krbCode.FindStringSubmatch(text); m != nil {
		code, _ = strconv.Atoi(m[1])
	}
	switch {
	case code == 0 && strings.Contains(text, "clock skew"):
		code = 37
	case code == 0 && strings.Contains(text, krberror.NetworkingError):
		return &ConnectionError{Host: t.cfg.Host, Err: fmt.Errorf("no KDC of the realm answers: %w", err)}
	}
	e := &LoginError{Host: t.cfg.Host, User: t.user(), Password: code == 18 || code == 23 || code == 24}
	if r := kerberosRemedies[code]; r != "" {
		if strings.Contains(r, "%s") {
			r = fmt.Sprintf(r, t.spn)
		}
		err = fmt.Errorf("%s (%w)", r, err)
	}
	e.Err = err
	return e
}

// answer finds the reason of a refusal in the reply's headers.
func (t *tickets) answer(h http.Header) error {
	_, token := findToken(h, "Kerberos")
	if kind, body, err := openToken(token); err == nil && bytes.Equal(kind, tokenError) {
		return t.failed(kerberosError(body))
	}
	return t.refused(nil)
}
