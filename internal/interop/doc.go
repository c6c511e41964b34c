// Package interop holds tests with programs and libraries of others that no
// user of Anyvisor needs. It is a module of its own, so that those are not in
// the module graph of every user.
package interop
