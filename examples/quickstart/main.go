// Command quickstart takes the tour of a hypervisor on the fake, which needs
// no cgo, no root and no hypervisor:
//
//	go run ./examples/quickstart
//
// The same tour runs on a real hypervisor with "hv tour", see ../hv. The exit
// status is 1 if a step failed.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/anyvisor/anyvisor/examples/internal/tour"
	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, out, diag io.Writer) int {
	c, err := hypervisor.Open(ctx, "fake://?delay=200ms", nil)
	if err != nil {
		fmt.Fprintf(diag, "quickstart: %v\n", err)
		return 1
	}
	defer c.Close()
	if tour.Run(ctx, c, out, tour.Options{}) > 0 {
		return 1
	}
	return 0
}
