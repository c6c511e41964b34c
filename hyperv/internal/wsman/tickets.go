package wsman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	krbclient "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/types"
)

// KerberosConfig says where Kerberos takes its settings and the user's key
// from. Without Keytab and CCache the password of the Config is used, and
// without that the user's own credential cache.
type KerberosConfig struct {
	// ConfigFile is krb5.conf; empty means $KRB5_CONFIG or /etc/krb5.conf.
	ConfigFile string
	Realm      string // empty: the part of the user after @, or the default realm
	Keytab     string // a keytab file
	CCache     string // a credential cache file
	SPN        string // empty: HTTP/host
}

// tickets gets tickets for one host. The library's client is not safe for
// concurrent use, and knows no contexts: it gives up on a KDC after some
// seconds.
type tickets struct {
	cfg  Config
	spn  string
	open func() (*krbclient.Client, time.Time, error) // the time is when its tickets end, or zero

	mu     sync.Mutex
	client *krbclient.Client
	ends   time.Time
	closed bool
}

// newTickets reads the files once, to refuse what can't work. A credential
// cache is read again when its tickets have ended.
func newTickets(cfg Config) (*tickets, error) {
	kc := cfg.Krb
	file := kc.ConfigFile
	if file == "" {
		file = os.Getenv("KRB5_CONFIG")
	}
	if file == "" {
		file = "/etc/krb5.conf"
	}
	conf, err := config.Load(file)
	if err != nil {
		return nil, fmt.Errorf("wsman: Kerberos configuration: %w", err)
	}
	_, user := splitUser(cfg.User) // a domain's short name is no realm
	user, realm, _ := strings.Cut(user, "@")
	if kc.Realm != "" {
		realm = kc.Realm
	}
	if realm == "" {
		realm = conf.LibDefaults.DefaultRealm
	}
	t := &tickets{cfg: cfg, spn: kc.SPN}
	if t.spn == "" {
		t.spn = "HTTP/" + cfg.Host
	}
	// Active Directory does not answer the FAST negotiation as RFC 6806 wants.
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
			cc, err := credentials.LoadCCache(kc.CCache)
			if err != nil {
				return nil, time.Time{}, fmt.Errorf("wsman: Kerberos credential cache: %w", err)
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
		kt, err := keytab.Load(kc.Keytab)
		if err != nil {
			return nil, fmt.Errorf("wsman: Kerberos keytab: %w", err)
		}
		t.open = func() (*krbclient.Client, time.Time, error) {
			return krbclient.NewWithKeytab(user, realm, kt, conf, noFAST), time.Time{}, nil
		}
	default:
		t.open = func() (*krbclient.Client, time.Time, error) {
			return krbclient.NewWithPassword(user, realm, cfg.Password, conf, noFAST), time.Time{}, nil
		}
	}
	t.client, t.ends, err = t.open()
	return t, err
}

// ownCache is where Kerberos' tools keep this user's tickets.
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

// begin makes a login's first token.
func (t *tickets) begin(ctx context.Context, binding []byte) (*gssContext, []byte, error) {
	type result struct {
		g     *gssContext
		token []byte
		err   error
	}
	done := make(chan result, 1)
	go func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		var r result
		if r.err = ctx.Err(); r.err == nil {
			r.g, r.token, r.err = t.fetch(binding)
		}
		done <- r
	}()
	select {
	case r := <-done:
		return r.g, r.token, r.err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// fetch needs mu.
func (t *tickets) fetch(binding []byte) (*gssContext, []byte, error) {
	if t.closed {
		return nil, nil, errors.New("wsman: session is closed")
	}
	if t.client != nil && !t.ends.IsZero() && !time.Now().Before(t.ends) {
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
	tkt, key, err := t.client.GetServiceTicket(t.spn)
	if err != nil {
		return nil, nil, t.failed(err)
	}
	g, token, err := newGSS(tkt, key, t.client.Credentials.Domain(), t.client.Credentials.CName(), binding)
	if err != nil {
		return nil, nil, t.refused(err)
	}
	return g, token, nil
}

// forget drops the tickets: one that a host refuses may be older than the key
// that the host has now.
func (t *tickets) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
}

func (t *tickets) drop() {
	if t.client != nil {
		t.client.Destroy()
		t.client = nil
	}
}

// close waits for a ticket that is on its way.
func (t *tickets) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.drop()
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

// What to do about errors of KDCs and hosts (RFC 4120, 7.5.9).
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

// failed tells a refusal from a KDC that can't be reached.
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
	if r := kerberosRemedies[code]; r != "" {
		if strings.Contains(r, "%s") {
			r = fmt.Sprintf(r, t.spn)
		}
		err = fmt.Errorf("%s (%w)", r, err)
	}
	return t.refused(err)
}

// answer finds the reason of a refusal in the reply's headers.
func (t *tickets) answer(h http.Header) error {
	_, token := findToken(h, "Kerberos")
	if kind, body, err := openToken(token); err == nil && bytes.Equal(kind, tokenError) {
		return t.failed(kerberosError(body))
	}
	return t.refused(nil)
}
