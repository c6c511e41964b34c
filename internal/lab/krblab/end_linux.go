package krblab

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel end the program when this process is killed. The signal is sent
// when the thread that started the program ends, and Go ends no threads unless a locked goroutine
// exits.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
