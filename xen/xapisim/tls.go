package xapisim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"time"
)

// certificate is the pool's self-signed certificate, valid for all its hosts.
type certificate struct {
	tls        tls.Certificate
	leaf       *x509.Certificate
	thumbprint string
}

func newCertificate(addrs []net.IP) (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "xapisim"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour * 365),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: addrs, DNSNames: []string{"localhost"}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return certificate{}, err
	}
	sum := sha256.Sum256(der)
	return certificate{
		tls:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		leaf: leaf, thumbprint: hex.EncodeToString(sum[:]),
	}, nil
}

type webServer struct {
	listener net.Listener
	server   *http.Server
}

func (w webServer) serve() { _ = w.server.Serve(w.listener) }

func (w webServer) close() {
	if w.server != nil {
		_ = w.server.Close()
	}
	_ = w.listener.Close()
}

func (w webServer) address() string { return w.listener.Addr().String() }

// listen opens a port for each host. On Linux host n is 127.0.0.n, all on one port, so that the bare address in
// HOST_IS_SLAVE can be followed; elsewhere only 127.0.0.1 answers, so the addresses carry ports.
func (s *Sim) listen() error {
	many := runtime.GOOS == "linux"
	var ips []net.IP
	for i := range s.cfg.Hosts {
		ip := net.IPv4(127, 0, 0, 1)
		if many {
			ip = net.IPv4(127, 0, byte(i/250), byte(1+i%250))
		}
		ips = append(ips, ip)
	}
	cert, err := newCertificate(ips)
	if err != nil {
		return fmt.Errorf("xapisim: certificate: %w", err)
	}
	s.cert = cert
	for try := 0; ; try++ {
		ls, err := listenAll(ips, many)
		if err != nil && try < 20 {
			continue // the port is taken at one of the other addresses
		}
		if err != nil {
			return fmt.Errorf("xapisim: listen: %w", err)
		}
		for i, l := range ls {
			n := &node{addr: ips[i].String()}
			if !many {
				n.addr = l.Addr().String()
			}
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert.tls}, MinVersion: tls.VersionTLS12})
			n.web = webServer{l, &http.Server{
				Handler: &endpoint{s, i}, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
			}}
			s.nodes = append(s.nodes, n)
		}
		return nil
	}
}

func listenAll(ips []net.IP, onePort bool) ([]net.Listener, error) {
	var out []net.Listener
	port := 0
	for _, ip := range ips {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
		if err != nil {
			for _, o := range out {
				_ = o.Close()
			}
			return nil, err
		}
		if onePort {
			port = l.Addr().(*net.TCPAddr).Port
		}
		out = append(out, l)
	}
	return out, nil
}
