package wsman

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	krbclient "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// KerberosConfig says where Kerberos takes its settings and the user's key
// from. Without Keytab and CCache the password of the Config is used.
type KerberosConfig struct {
	// ConfigFile is krb5.conf; empty means $KRB5_CONFIG or /etc/krb5.conf.
	ConfigFile string
	Realm      string // empty: the part of the user after @, or the default realm
	Keytab     string // a keytab file
	CCache     string // a credential cache file
	SPN        string // empty: HTTP/host
}

// kerberosPoster adds a fresh SPNEGO token to each request. The library seals
// nothing, therefore New allows it over HTTPS only.
type kerberosPoster struct {
	*tlsPoster
	mu     sync.Mutex
	client *krbclient.Client
	spn    string
}

func newKerberos(url string, cfg Config) (*kerberosPoster, error) {
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
	user, realm, _ := strings.Cut(cfg.User, "@")
	if kc.Realm != "" {
		realm = kc.Realm
	}
	if realm == "" {
		realm = conf.LibDefaults.DefaultRealm
	}
	p := &kerberosPoster{spn: kc.SPN}
	if p.spn == "" {
		p.spn = "HTTP/" + cfg.Host
	}
	// Active Directory does not answer the FAST negotiation as RFC 6806 wants.
	noFAST := krbclient.DisablePAFXFAST(true)
	switch {
	case kc.CCache != "":
		cc, err := credentials.LoadCCache(kc.CCache)
		if err != nil {
			return nil, fmt.Errorf("wsman: Kerberos credential cache: %w", err)
		}
		if p.client, err = krbclient.NewFromCCache(cc, conf, noFAST); err != nil {
			return nil, fmt.Errorf("wsman: Kerberos credential cache: %w", err)
		}
	case kc.Keytab != "":
		kt, err := keytab.Load(kc.Keytab)
		if err != nil {
			return nil, fmt.Errorf("wsman: Kerberos keytab: %w", err)
		}
		p.client = krbclient.NewWithKeytab(user, realm, kt, conf, noFAST)
	case cfg.Password != "":
		p.client = krbclient.NewWithPassword(user, realm, cfg.Password, conf, noFAST)
	default:
		return nil, errors.New("wsman: Kerberos needs a password, a keytab or a credential cache")
	}
	p.tlsPoster = newTLS(url, cfg, p.authorize)
	return p, nil
}

// authorize makes the token; the library renews tickets in its own session,
// which is not safe for concurrent use.
func (p *kerberosPoster) authorize(rq *http.Request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return spnego.SetSPNEGOHeader(p.client, rq, p.spn)
}

func (p *kerberosPoster) close() {
	p.tlsPoster.close()
	p.client.Destroy()
}
