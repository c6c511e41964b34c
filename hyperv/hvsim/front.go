package hvsim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wsmand"
)

// front is a host's pair of WinRM listeners.
type front struct {
	plain, secure net.Listener
	servers       [2]*http.Server
	cert          *x509.Certificate
	wsman         map[Rights]*wsmand.Server // by the rights of the account
	done          chan struct{}
}

func (h *Host) listen() error {
	f := &front{done: make(chan struct{}, 2), wsman: map[Rights]*wsmand.Server{}}
	for _, r := range []Rights{Administrator, HyperVOnly, RemoteOnly} {
		f.wsman[r] = wsmand.New(provider{h, r}, h.sim.cfg.MaxEnvelopeKB, h.sim.cfg.OldFaults, wsmand.Hooks{Operation: h.operation})
	}
	cert, err := selfSigned(h.cfg.Name)
	if err != nil {
		return err
	}
	f.cert = cert.Leaf
	if f.plain, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, f.plain.Close())
	}
	f.secure = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})
	quiet := log.New(io.Discard, "", 0)
	for n, l := range []net.Listener{f.plain, f.secure} {
		s := &http.Server{Handler: h.door(f, n == 1), ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second, ConnContext: connContext}
		f.servers[n] = s
		go func() {
			_ = s.Serve(l) // ends with ErrServerClosed
			f.done <- struct{}{}
		}()
	}
	h.front = f
	return nil
}

func (h *Host) unlisten() error {
	f := h.front
	if f == nil {
		return nil
	}
	var errs []error
	for _, s := range f.servers {
		errs = append(errs, s.Close())
		<-f.done
	}
	return errors.Join(errs...)
}

type connKey struct{}

// connContext gives each connection a place for its NTLM session: NTLM authenticates connections, not requests.
func connContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &session{})
}

// operation counts a request and applies wire faults.
func (h *Host) operation(op string) (status int, drop bool) {
	s := h.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count("HTTP", op)
	if f := s.strike(h, "HTTP", op, func(f *Fault) bool { return f.Status != 0 || f.Drop }); f != nil {
		return f.Status, f.Drop
	}
	drop = op == "Pull" && s.strike(h, op, "", func(f *Fault) bool { return f.Drop && f.Op == op }) != nil
	return 0, drop
}

// URL is the host's HTTPS endpoint; its certificate is in RootCAs of Sim.CertPool.
func (h *Host) URL() string { return "https://" + h.front.secure.Addr().String() + "/wsman" }

// HTTPURL is the host's plain endpoint, which accepts NTLM with sealed messages (and Basic only with Config.AllowUnencrypted).
func (h *Host) HTTPURL() string { return "http://" + h.front.plain.Addr().String() + "/wsman" }

// Certificate is the host's self-signed certificate.
func (h *Host) Certificate() *x509.Certificate { return h.front.cert }

// CertPool holds the certificates of all hosts.
func (s *Sim) CertPool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, h := range s.hosts {
		p.AddCert(h.front.cert)
	}
	return p
}

// CertPEM has the hosts' certificates in PEM form, for clients that read a file of authorities.
func (s *Sim) CertPEM() []byte {
	var out []byte
	for _, h := range s.hosts {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.front.cert.Raw})...)
	}
	return out
}

func selfSigned(name string) (tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name, strings.ToLower(name), "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}, nil
}
