package dbosfleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/dbos-inc/dbos-transact-golang/dbos"
	_ "github.com/dbos-inc/dbos-transact-golang/dbos/driver/sqlite" // lets DBOS open SQLite
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // lets database/sql open PostgreSQL
	sqlite "modernc.org/sqlite"
)

// workerLock is what a worker holds. The system lets it go when the process
// ends in any way.
type workerLock struct {
	db   *sql.DB
	conn *sql.Conn
	stop context.CancelFunc
	wg   sync.WaitGroup
	lost chan struct{} // closed when the connection to the lock breaks
}

// lock waits until this process is the store's worker.
func (e *Engine) lock(ctx context.Context) (*workerLock, error) {
	for {
		l, err := e.tryLock(ctx)
		if l != nil {
			return l, nil
		}
		// A store that can't be reached now may come back.
		wait := 50 * time.Millisecond
		if err != nil {
			if file, _ := e.file(); file != "" {
				return nil, errors.Join(ctx.Err(), err)
			}
			wait = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// tryLock returns nil if another process is the worker.
func (e *Engine) tryLock(ctx context.Context) (*workerLock, error) {
	file, err := e.file()
	if err != nil {
		return nil, err
	}
	l := &workerLock{lost: make(chan struct{})}
	if file != "" {
		l.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: file + ".worker"}).EscapedPath())
	} else {
		l.db, err = sql.Open("pgx", e.cfg.URL)
	}
	if err != nil {
		return nil, e.storeError(err)
	}
	if l.conn, err = l.db.Conn(ctx); err != nil {
		return nil, errors.Join(e.storeError(err), l.db.Close())
	}
	ok, err := l.take(ctx, file != "")
	if err != nil || !ok {
		l.conn.Close()
		l.db.Close()
		return nil, e.storeError(err)
	}
	var watch context.Context
	watch, l.stop = context.WithCancel(context.Background())
	if file == "" {
		l.wg.Go(func() { l.watch(watch) })
	}
	return l, nil
}

func (l *workerLock) take(ctx context.Context, file bool) (bool, error) {
	if file {
		_, err := l.conn.ExecContext(ctx, "BEGIN EXCLUSIVE")
		var se *sqlite.Error
		if errors.As(err, &se) && se.Code()&0xff == 5 { // SQLITE_BUSY
			return false, nil
		}
		return err == nil, err
	}
	// The server lets the lock of a worker go that it can't reach for ten
	// seconds, the worker stops after four.
	for _, set := range []string{"SET tcp_keepalives_idle = 4", "SET tcp_keepalives_interval = 2", "SET tcp_keepalives_count = 3"} {
		if _, err := l.conn.ExecContext(ctx, set); err != nil {
			return false, err
		}
	}
	var ok bool
	err := l.conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock(hashtext('anyvisor-fleet-worker'))").Scan(&ok)
	return ok, err
}

// watch asks the server each second whether the connection still holds.
func (l *workerLock) watch(ctx context.Context) {
	for {
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		ask, stop := context.WithTimeout(ctx, 3*time.Second)
		_, err := l.conn.ExecContext(ask, "SELECT 1")
		stop()
		if err != nil {
			if ctx.Err() == nil {
				close(l.lost)
			}
			return
		}
	}
}

func (l *workerLock) release() {
	l.stop()
	l.wg.Wait()
	l.conn.Close()
	l.db.Close()
}

// file returns the path of the SQLite file, or "" for PostgreSQL.
func (e *Engine) file() (string, error) {
	rest, ok := strings.CutPrefix(e.cfg.URL, "sqlite:")
	if !ok {
		if strings.HasPrefix(e.cfg.URL, "postgres://") || strings.HasPrefix(e.cfg.URL, "postgresql://") {
			return "", nil
		}
		return "", fmt.Errorf("dbosfleet: the URL is neither sqlite:PATH nor postgres://…")
	}
	rest, _, _ = strings.Cut(strings.TrimPrefix(rest, "//"), "?")
	if rest == "" || strings.HasPrefix(rest, ":memory:") || strings.HasPrefix(rest, "file:") {
		return "", fmt.Errorf("dbosfleet: the URL needs the path of a file, sqlite:PATH: fleet.NewMemory keeps runs in memory")
	}
	return rest, nil
}

// check looks whether an existing store can be used, before anything is
// changed in it.
func (e *Engine) check(ctx context.Context) error {
	file, err := e.file()
	if err != nil {
		return err
	}
	newest := 0
	for v := 1; v < 10000; v++ { // versions have gaps
		if s, err := dbos.MigrationStatements("", v); err != nil || len(s) == 0 {
			break
		}
		newest = v
	}
	driver, dsn, query := "pgx", e.cfg.URL, "SELECT max(version) FROM dbos.dbos_migrations"
	if file != "" {
		driver, dsn, query = "sqlite", strings.TrimPrefix(strings.TrimPrefix(e.cfg.URL, "sqlite:"), "//"), "SELECT max(version) FROM dbos_migrations"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return e.storeError(err)
	}
	defer db.Close()
	var have sql.NullInt64
	if err := db.QueryRowContext(ctx, query).Scan(&have); err != nil {
		return nil // no tables yet, or Migrate meets the same error
	}
	if have.Int64 > int64(newest) {
		return &fleet.StoreError{Store: e.name(), Newer: true, Err: fmt.Errorf("DBOS's tables have version %d, this program knows %d", have.Int64, newest)}
	}
	return nil
}

// migrate makes or changes DBOS's tables, in one process at a time.
func (e *Engine) migrate(ctx context.Context) error {
	driver, dsn := "pgx", e.cfg.URL
	if file, _ := e.file(); file != "" {
		driver, dsn = "sqlite", "file:"+(&url.URL{Path: file + ".migrate"}).EscapedPath()+"?_pragma=busy_timeout(30000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if driver == "sqlite" {
		if _, err := c.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
			return err
		}
		return dbos.Migrate(ctx, e.cfg.URL, dbos.WithMigrateLogger(e.cfg.Logger))
	}
	// It asks again and again: DBOS makes indexes concurrently, for which
	// PostgreSQL waits until no other statement runs, also one that waits for
	// a lock.
	for ok := false; !ok; {
		if err := c.QueryRowContext(ctx, "SELECT pg_try_advisory_lock(hashtext('anyvisor-fleet-migrate'))").Scan(&ok); err != nil {
			return err
		}
		if ok {
			break
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	err = dbos.Migrate(ctx, e.cfg.URL, dbos.WithMigrateLogger(e.cfg.Logger))
	_, uerr := c.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock_all()")
	return errors.Join(err, uerr)
}

// storeError classifies an error of the store.
func (e *Engine) storeError(err error) error {
	if err == nil {
		return nil
	}
	out := &fleet.StoreError{Store: e.name(), Err: err}
	var se *sqlite.Error
	var pe *pgconn.PgError
	switch {
	case errors.As(err, &se):
		out.ReadOnly = se.Code()&0xff == 8 // SQLITE_READONLY
	case errors.As(err, &pe):
		out.ReadOnly = pe.Code == "25006" // read_only_sql_transaction
	default: // DBOS keeps only the text of some errors
		out.ReadOnly = strings.Contains(err.Error(), "readonly database") || strings.Contains(err.Error(), "read-only transaction")
	}
	return out
}
