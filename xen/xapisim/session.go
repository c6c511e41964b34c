package xapisim

// Sessions follow xen-api's ocaml/xapi/xapi_session.ml: only the coordinator accepts logins, the others return its address.

var sessionHandlers = map[string]handler{
	"session.login_with_password": func(c *call) (any, error) {
		if c.node != c.master {
			return nil, fail("HOST_IS_SLAVE", c.nodes[c.master].addr)
		}
		if c.noLogins.Load() || c.str(0) != c.cfg.User || c.str(1) != c.cfg.Password {
			return nil, fail("SESSION_AUTHENTICATION_FAILED", c.str(0), "Authentication failure")
		}
		o := c.newObject("session", map[string]any{
			"this_host": c.nodes[c.node].host, "last_active": c.now(), "validation_time": c.now(), "is_local_superuser": true,
			"originator": c.str(3), "auth_user_name": c.str(0),
		})
		return o.ref, nil
	},
	"session.slave_local_login_with_password": func(c *call) (any, error) {
		if c.str(0) != c.cfg.User || c.str(1) != c.cfg.Password {
			return nil, fail("SESSION_AUTHENTICATION_FAILED", c.str(0), "Authentication failure")
		}
		ref := newRef()
		c.localLogins[ref] = true
		return ref, nil
	},
	"session.logout": func(c *call) (any, error) {
		if c.session != nil {
			c.remove(c.session)
		}
		return nil, nil
	},
	"session.local_logout":                func(c *call) (any, error) { return nil, nil },
	"session.get_all_subject_identifiers": func(c *call) (any, error) { return emptySet, nil },
}

// ExpireSessions ends every session: the next call with one gets SESSION_INVALID, and so do waiting ones.
func (s *Sim) ExpireSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropSessions()
}

func (s *Sim) dropSessions() {
	for _, o := range s.all("session") {
		s.remove(o)
	}
}

// Sessions returns the number of open sessions.
func (s *Sim) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tables["session"].byRef)
}

// RefuseLogins refuses every login from now on, as after a change of the password, or accepts them again.
func (s *Sim) RefuseLogins(on bool) { s.noLogins.Store(on) }
