// Package qemu runs the nested machines of labs.
package qemu

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Machine is a running QEMU process.
type Machine struct {
	Name    string
	Console string // file that its serial port writes to

	cmd    *exec.Cmd
	ended  chan struct{}
	stderr bytes.Buffer
}

// Start runs QEMU with args, its console in dir. It ends when this process ends, for any reason.
func Start(name, dir string, args ...string) (*Machine, error) {
	m := &Machine{Name: name, Console: filepath.Join(dir, name+".console"), ended: make(chan struct{})}
	all := append([]string{"--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-name", name, "-nodefaults", "-display", "none", "-vga", "none",
		"-no-reboot", "-serial", "file:" + m.Console}, args...)
	m.cmd = exec.Command("setpriv", all...)
	m.cmd.Stderr = &m.stderr
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		m.cmd.Wait()
		close(m.ended)
	}()
	return m, nil
}

// Ended returns nil while the machine runs, and QEMU's error message when it does not.
func (m *Machine) Ended() error {
	select {
	case <-m.ended:
		return fmt.Errorf("machine %s has ended: %v: %s", m.Name, m.cmd.ProcessState, m.stderr.Bytes())
	default:
		return nil
	}
}

// Wait polls ready until it returns nil, the machine ends or ctx does. Its error contains the end
// of the console.
func (m *Machine) Wait(ctx context.Context, what string, ready func(context.Context) error) error {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.ended:
			return fmt.Errorf("%w; console:\n%s", m.Ended(), m.tail())
		case <-ctx.Done():
			return fmt.Errorf("machine %s: %s: %w (last: %w); console:\n%s", m.Name, what, context.Cause(ctx), err, m.tail())
		}
	}
}

func (m *Machine) tail() []byte {
	b, _ := os.ReadFile(m.Console)
	return b[max(0, len(b)-3000):]
}

// Stop kills the process and waits for its end.
func (m *Machine) Stop() {
	m.cmd.Process.Kill()
	<-m.ended
}

// FreePort returns a TCP port of the loopback address that is free now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
