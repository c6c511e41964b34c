package hypervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// MigrateMode decides whether the machine may stop for the move.
type MigrateMode uint8

const (
	MigrateModeAuto MigrateMode = iota // live if it runs, cold if it is off or suspended
	MigrateModeLive                    // the guest keeps running; ErrInvalidState if it doesn't run
	MigrateModeCold                    // the machine must be Off or Suspended
)

// MigrateOptions describe where a machine moves and how. Empty parts of the
// destination stay as they are; at least one must be given.
type MigrateOptions struct {
	Host    HostID
	Storage DatastoreID // for all disks
	Pool    PoolID
	// To is another Client of the same kind. Host and Storage are then IDs of
	// that Client.
	To *Client

	Mode MigrateMode
	// MaxDowntime bounds the pause at the end of a live migration; 0 leaves it
	// to the platform.
	MaxDowntime time.Duration
	// BandwidthBytes per second; 0 means no limit.
	BandwidthBytes int64
	// Timeout cancels a live migration that has not finished by then. The
	// machine keeps running at the source. 0 means no limit.
	Timeout      time.Duration
	PostCopy     bool // switch over early and fetch the rest on demand
	AutoConverge bool // slow the guest's vCPUs down until it converges
	Compress     bool
	Channels     int // parallel streams; 0 leaves it to the platform
	// KeepSource leaves the source's disk images in place after a move of
	// storage, instead of removing them once the move is proven.
	KeepSource bool
}

// MigrateRequest is what a driver gets. To is nil for a move within one
// Client.
type MigrateRequest struct {
	MigrateOptions
	To Driver // in place of MigrateOptions.To
}

// Capability returns the capability that the move needs, for a live move or
// another one.
func (r MigrateRequest) Capability(live bool) capability.Name {
	switch {
	case r.To != nil:
		return capability.MigrateCross
	case r.PostCopy:
		return capability.MigratePostCopy
	case r.Host == "" && r.Pool == "" && live:
		return capability.MigrateLiveStorage
	case r.Host == "" && r.Pool == "":
		return capability.MigrateStorage
	case !live:
		return capability.MigrateCold
	case r.Storage != "":
		return capability.MigrateBoth
	}
	return capability.MigrateLive
}

// Tuned reports whether an option is set that capability.MigrateTuning
// covers.
func (r MigrateRequest) Tuned() bool {
	return r.MaxDowntime != 0 || r.BandwidthBytes != 0 || r.AutoConverge || r.Compress || r.Channels != 0
}

// Blocker is one thing that prevents a migration, or that the caller should
// know about.
type Blocker struct {
	Reason ReasonCode `json:"reason"`
	Object Ref        `json:"object"`
	Detail string     `json:"detail"` // the problem and its remedy
}

// MigrateReport is everything that CheckMigrate found.
type MigrateReport struct {
	Blockers []Blocker `json:"blockers,omitempty"`
	Warnings []Blocker `json:"warnings,omitempty"`
	// Method is the way the platform would do it: "live, peer to peer", …
	Method string `json:"method,omitempty"`
}

// OK reports whether nothing blocks the migration.
func (r MigrateReport) OK() bool { return len(r.Blockers) == 0 }

// BlockedError holds every blocker of a refused migration. It is found with
// errors.As inside an *Error, usually of ErrIncompatible.
type BlockedError struct{ Blockers []Blocker }

func (e *BlockedError) Error() string {
	var s []string
	for _, b := range e.Blockers {
		s = append(s, fmt.Sprintf("%s: %s", b.Reason, b.Detail))
	}
	return "migration is blocked by " + strings.Join(s, "; ")
}

// MigrateResult is the outcome of a migration.
type MigrateResult struct {
	VM   VMID   `json:"vm"` // differs from the old one where the platform assigns a new one, across Clients
	Host HostID `json:"host,omitempty"`
	// Downtime is the time that the guest stood still, as measured by the
	// platform. It is negative where the platform doesn't report it.
	Downtime    time.Duration `json:"downtime"`
	Total       time.Duration `json:"total"`
	BytesCopied int64         `json:"bytesCopied,omitempty"`
	Method      string        `json:"method,omitempty"`
	// Kept names disk images that the source still has.
	Kept []Ref `json:"kept,omitempty"`
}

func (o MigrateOptions) request() MigrateRequest {
	r := MigrateRequest{MigrateOptions: o}
	if o.To != nil {
		r.To = o.To.d
	}
	return r
}

// CheckMigrate lists everything that blocks a migration: CPU, devices,
// snapshots, names, room, access to disks and networks, running work,
// versions, licences. It changes nothing.
func (m *VM) CheckMigrate(ctx context.Context, o MigrateOptions) (MigrateReport, error) {
	r := o.request()
	return read(ctx, m.c, op.VMCheckMigrate, m.Ref(), r.Capability(o.Mode != MigrateModeCold), checkMigrate(op.VMCheckMigrate, m, o), func(ctx context.Context, d Migrator) (MigrateReport, error) {
		return d.CheckMigrate(ctx, m.id, r)
	})
}

// Migrate moves the machine. Blockers found before anything is changed are
// ErrIncompatible with a *BlockedError. When the move fails or is cancelled,
// the machine is at the source, in the state it was in before.
func (m *VM) Migrate(ctx context.Context, o MigrateOptions) *Task[MigrateResult] {
	r := o.request()
	return start(ctx, m.c, op.VMMigrate, m.Ref(), r.Capability(o.Mode != MigrateModeCold), checkMigrate(op.VMMigrate, m, o), func(ctx context.Context, d Migrator) (DriverTask, error) {
		return d.Migrate(ctx, m.id, r)
	}, func(_ context.Context, s TaskState) (MigrateResult, error) {
		if s.Migration == nil {
			return MigrateResult{VM: VMID(s.Result.ID), Downtime: -1}, nil
		}
		return *s.Migration, nil
	})
}
