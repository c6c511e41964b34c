package hypervisor

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// MigrateMode says whether the machine may stop for the move.
type MigrateMode uint8

const (
	AutoMigrate MigrateMode = iota // live if it runs, cold if it is off or suspended
	Live                           // the guest goes on; ErrInvalidState if it doesn't run
	Cold                           // the machine must be Off or Suspended
)

// MigrateOptions say where a machine goes and how. Empty parts of the
// destination stay as they are; at least one must be given.
type MigrateOptions struct {
	Host    HostID
	Storage DatastoreID // where all disks go
	Pool    PoolID
	// To is another Client of the same kind; Host and Storage are then IDs of
	// that one.
	To *Client

	Mode MigrateMode
	// MaxDowntime bounds the pause at the end of a live migration; 0 leaves it
	// to the platform.
	MaxDowntime time.Duration
	// BandwidthBytes per second; 0 means no limit.
	BandwidthBytes int64
	// Timeout cancels a live migration that has not come to its end by then.
	// The machine goes on at the source. 0 means none.
	Timeout      time.Duration
	PostCopy     bool // switch over early and fetch the rest on demand
	AutoConverge bool // slow the guest's vCPUs down until it converges
	Compress     bool
	Channels     int // parallel streams; 0 leaves it to the platform
	// KeepSource leaves the source's disk images in place after a move of
	// storage, instead of removing them once the move is proven.
	KeepSource bool
}

// MigrateRequest is what a driver gets. To is nil for a move inside.
type MigrateRequest struct {
	Host           HostID
	Storage        DatastoreID
	Pool           PoolID
	To             Driver
	Mode           MigrateMode
	MaxDowntime    time.Duration
	BandwidthBytes int64
	Timeout        time.Duration
	PostCopy       bool
	AutoConverge   bool
	Compress       bool
	Channels       int
	KeepSource     bool
}

// Tuned reports whether an option is set that MigrateTuning stands for.
func (r MigrateRequest) Tuned() bool {
	return r.MaxDowntime != 0 || r.BandwidthBytes != 0 || r.AutoConverge || r.Compress || r.Channels != 0
}

// Blocker is one thing that stands in the way of a migration, or that the
// caller should know.
type Blocker struct {
	Reason ReasonCode `json:"reason"`
	Object Ref        `json:"object"`
	Detail string     `json:"detail"` // what, and what would remedy it
}

// MigrateReport is everything that CheckMigrate found.
type MigrateReport struct {
	Blockers []Blocker `json:"blockers,omitempty"`
	Warnings []Blocker `json:"warnings,omitempty"`
	// Method is how the platform would do it: "live, peer to peer", …
	Method string `json:"method,omitempty"`
}

// OK reports whether nothing stands in the way.
func (r MigrateReport) OK() bool { return len(r.Blockers) == 0 }

// BlockedError holds every blocker of a refused migration. It is found with
// errors.As inside an *Error, usually of KindIncompatible.
type BlockedError struct{ Blockers []Blocker }

func (e *BlockedError) Error() string {
	var s []string
	for _, b := range e.Blockers {
		s = append(s, fmt.Sprintf("%s: %s", b.Reason, b.Detail))
	}
	return "migration is blocked by " + strings.Join(s, "; ")
}

// MigrateResult is what a migration did.
type MigrateResult struct {
	VM   VMID   `json:"vm"` // new where the platform gives a new one, across Clients
	Host HostID `json:"host,omitempty"`
	// Downtime is how long the guest stood still, as measured by the platform;
	// negative where it doesn't tell.
	Downtime    time.Duration `json:"downtime"`
	Total       time.Duration `json:"total"`
	BytesCopied int64         `json:"bytesCopied,omitempty"`
	Method      string        `json:"method,omitempty"`
	// Kept names disk images that the source still has.
	Kept []Ref `json:"kept,omitempty"`
}

func (o MigrateOptions) request() MigrateRequest {
	r := MigrateRequest{Host: o.Host, Storage: o.Storage, Pool: o.Pool, Mode: o.Mode, MaxDowntime: o.MaxDowntime,
		BandwidthBytes: o.BandwidthBytes, Timeout: o.Timeout, PostCopy: o.PostCopy, AutoConverge: o.AutoConverge,
		Compress: o.Compress, Channels: o.Channels, KeepSource: o.KeepSource}
	if o.To != nil {
		r.To = o.To.d
	}
	return r
}

func (o MigrateOptions) capability() Capability {
	switch {
	case o.To != nil:
		return MigrateCross
	case o.PostCopy:
		return MigratePostCopy
	case o.Host == "" && o.Pool == "" && o.Mode == Cold:
		return MigrateStorage
	case o.Host == "" && o.Pool == "":
		return MigrateLiveStorage
	case o.Mode == Cold:
		return MigrateCold
	case o.Storage != "":
		return MigrateBoth
	}
	return MigrateLive
}

// CheckMigrate lists everything that stands in the way of a migration:
// CPU, devices, snapshots, names, room, reach of disks and networks, running
// work, versions, licences. It changes nothing.
func (m *VM) CheckMigrate(ctx context.Context, o MigrateOptions) (MigrateReport, error) {
	return read(ctx, m.c, "migrate.check", m.ref(), o.capability(), checkMigrate("migrate.check", m, o), func(ctx context.Context, d Migrator) (MigrateReport, error) {
		return d.CheckMigrate(ctx, m.id, o.request())
	})
}

// Migrate moves the machine. Blockers found before anything is changed are
// ErrIncompatible with a *BlockedError. When the move fails or is cancelled
// the machine is at the source, in the state it was in.
func (m *VM) Migrate(ctx context.Context, o MigrateOptions) *Task[MigrateResult] {
	return start(ctx, m.c, "migrate", m.ref(), o.capability(), checkMigrate("migrate", m, o), func(ctx context.Context, d Migrator) (DriverTask, error) {
		return d.Migrate(ctx, m.id, o.request())
	}, func(_ context.Context, s TaskState) (MigrateResult, error) {
		if s.Migration == nil {
			return MigrateResult{VM: VMID(s.Result.ID), Downtime: -1}, nil
		}
		return *s.Migration, nil
	})
}
