// Command sallyport is the gate of a trusted research environment, and the
// tool of those who look after it.
//
// Some verbs work where they are typed: init, serve, recover and demo make or
// run a node; epoch new, replay, export and verify are for auditors and work
// on their own machine, without trust in any node. Every other verb is sent
// to the node through its local socket, and is the same there as in
// `ssh gate VERB`. This package holds flags and wiring only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"sallyport/bastion/console"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// streams are where the command reads and writes.
type streams struct {
	in  *os.File
	out *os.File
	err io.Writer
}

// run runs the command and returns its exit code.
func run(ctx context.Context, args []string, s streams) int {
	root := newRoot(args, s)
	root.SetArgs(append([]string{}, args...))
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	var remote remoteExit
	if errors.As(err, &remote) {
		return int(remote)
	}
	if err != nil && !console.Told(err) {
		fmt.Fprintf(s.err, "sallyport: %s", cleanReport(err.Error())) // it may quote a file or a gate that is hostile
	}
	return console.ExitCode(err)
}

// version is that of the module, or the revision that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return "development-" + setting.Value[:12]
		}
	}
	return "development"
}
