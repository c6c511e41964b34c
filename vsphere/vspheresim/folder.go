package vspheresim

import (
	"bytes"
	"crypto/subtle"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
)

// A simulator keeps the files of its datastores in one folder under the temporary one, and its clients reach no other file. Otherwise they would have
// the rights of the test, and could delete the developer's files.

// freeText are elements of requests that name no files.
var freeText = []string{"annotation", "description", "value", "arguments", "envVariables", "message", "password"}

// strays finds a path in a request that points outside the simulator's folder. API reference, InvalidDatastorePath: "the datastore path is not
// valid"; a real server has nothing above a datastore's root.
func (s *Sim) strays(method string, body []byte) string {
	elsewhere := method == "CreateLocalDatastore" || method == "CreateNasDatastore" // the path is one of this machine
	if !elsewhere && method != "UpdateOptions" && !bytes.Contains(body, []byte("..")) && !bytes.Contains(body, []byte("[")) && !bytes.ContainsAny(body, "&%") {
		return ""
	}
	d := xml.NewDecoder(bytes.NewReader(body))
	in := ""
	for {
		t, err := d.Token()
		if err != nil {
			return "" // at the end, or something that no server accepts
		}
		switch t := t.(type) {
		case xml.StartElement:
			in = t.Name.Local
		case xml.EndElement:
			in = ""
		case xml.CharData:
			text := string(t)
			switch {
			case in == "key" && text == homeSetting && method == "UpdateOptions":
				return text
			case in == "" || slices.Contains(freeText, in):
			case elsewhere && (in == "path" || in == "localPath"):
				if !s.owns(text) {
					return text
				}
			case leavesStore(text):
				return text
			}
		}
	}
}

// leavesStore reports whether a text is a path from a datastore's root that is absolute or has a part "..".
func leavesStore(text string) bool {
	if plain, err := url.PathUnescape(text); err == nil {
		text = plain
	}
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "[") {
		if _, rest, ok := strings.Cut(text, "]"); ok {
			if text = strings.TrimSpace(rest); strings.HasPrefix(text, "/") || strings.HasPrefix(text, `\`) {
				return true
			}
		}
	}
	return slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return r == '/' || r == '\\' }), "..")
}

// owns reports whether a path is inside of the simulator's folder.
func (s *Sim) owns(path string) bool {
	rel, err := filepath.Rel(s.dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (s *Sim) refusePath(w http.ResponseWriter, path string) {
	s.refuse(w, "ServerFaultCode", "Invalid datastore path '"+path+"'.",
		`<InvalidDatastorePathFault xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="InvalidDatastorePath"><datastorePath>`+
			escapeXML(path)+`</datastorePath></InvalidDatastorePathFault>`)
}

// admitPath checks a request for something other than a SOAP call, and refuses what govmomi's simulator gives without a login.
func (s *Sim) admitPath(w http.ResponseWriter, r *http.Request) bool {
	p := path.Clean(r.URL.Path)
	below := func(root string) bool { return p == root || strings.HasPrefix(p, root+"/") }
	switch {
	case below("/folder"), below("/nfc"), below("/about"):
		return s.admitFile(w, r)
	case below("/guestFile"): // it would run docker with the names in the request; guests here have their files at guestFiles
		w.WriteHeader(http.StatusNotFound)
		return false
	case r.Method == http.MethodPost && p == "/api", // makes a session for anybody
		strings.HasPrefix(r.Header.Get("Authorization"), "SIGN "): // any token is accepted, and isn't looked at
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

// admitFile checks a request for a file of a datastore [vSphere Web Services SDK programming guide, "HTTP access to vSphere server files":
// the user name and the password, or the cookie of a session].
func (s *Sim) admitFile(w http.ResponseWriter, r *http.Request) bool {
	user, pass, ok := r.BasicAuth()
	if ok && subtle.ConstantTimeCompare([]byte(user+"\x00"+pass), []byte(s.cfg.User+"\x00"+s.cfg.Password)) == 1 && !s.noLogins.Load() {
		return true
	}
	if c, err := r.Cookie(soap.SessionCookieName); err == nil && slices.Contains(s.sessionIDs(), c.Value) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// homeSetting is the setting in which govmomi's simulator keeps the folder's name.
const homeSetting = "vcsim.home"

// inUse is the lock that the folder of a simulator has while its process lives.
const inUse = ".in-use"

// claim locks the simulator's folder, and removes those that dead processes left.
func (s *Sim) claim() error {
	home := ""
	for _, o := range s.registry().OptionManager().Setting {
		if v := o.GetOptionValue(); v.Key == homeSetting {
			home, _ = v.Value.(string)
		}
	}
	if home == "" {
		return errors.New("vspheresim: the simulator has no folder")
	}
	s.dir = home
	sweep(filepath.Dir(home))
	unlock, err := lockNew(filepath.Join(home, inUse))
	if err != nil {
		return err
	}
	if s.root, err = os.OpenRoot(home); err != nil {
		unlock()
		return err
	}
	s.unlock = func() { s.root.Close(); unlock() }
	return nil
}

// unclaimed is the age at which an empty folder is no longer one that a process has just made and is about to lock.
const unclaimed = time.Minute

func sweep(temp string) {
	all, _ := filepath.Glob(filepath.Join(temp, "govcsim-*"))
	for _, dir := range all {
		if done, ok := tryLock(filepath.Join(dir, inUse)); ok { // its process is dead
			_ = os.RemoveAll(dir)
			done()
			continue
		}
		if i, err := os.Stat(dir); err == nil && time.Since(i.ModTime()) > unclaimed {
			_ = os.Remove(dir) // if it is empty
		}
	}
}

// writeCertificate puts the server's certificate into the simulator's folder.
func (s *Sim) writeCertificate() (string, error) {
	name := filepath.Join(s.dir, "certificate.pem")
	return name, s.root.WriteFile(filepath.Base(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw}), 0o600)
}
