package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// median of the values; the mean of the two middle ones of an even number.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	switch {
	case len(sorted) == 0:
		return 0
	case len(sorted)%2 == 1:
		return sorted[middle]
	default:
		return (sorted[middle-1] + sorted[middle]) / 2
	}
}

// report prints the machine and one line a measure: the median by each way and
// the ratio of the last way, the gate, to the others.
func report(out io.Writer, o options, machine string, ways []*way, results map[string]*samples, rounds int) error {
	fmt.Fprintf(out, "%s\n", machine)
	fmt.Fprintf(out, "%s on every leg, medians of %d rounds, %d MiB a transfer, %d logins and %d keys a round; recording on at the gate\n\n",
		cipher, rounds, o.size>>20, o.logins, o.keys)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	last := ways[len(ways)-1]
	fmt.Fprint(table, "measure\tunit\t")
	for _, w := range ways {
		fmt.Fprintf(table, "%s\t", w.name)
	}
	for _, w := range slices.Backward(ways[:len(ways)-1]) {
		fmt.Fprintf(table, "%s / %s\t", last.name, w.name)
	}
	fmt.Fprintln(table)
	for _, m := range measures {
		r := results[m.name]
		if r == nil {
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t", m.name, m.unit)
		for _, w := range ways {
			fmt.Fprintf(table, "%.1f\t", median(r.byWay[w.name]))
		}
		for _, w := range slices.Backward(ways[:len(ways)-1]) {
			fmt.Fprintf(table, "%.2f\t", median(r.byWay[last.name])/median(r.byWay[w.name]))
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nOf MB/s a higher ratio is better, of times a lower one. The client is golang.org/x/crypto/ssh for every way.")
	return err
}

// describeMachine names what the figures were made on.
func describeMachine(ctx context.Context) (string, error) {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	version, err := output(ctx, "ssh", "-V")
	if err != nil {
		return "", err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	openssh, _, _ := strings.Cut(strings.TrimSpace(version), ",")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s; load before the run %s",
		model, runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version(), openssh,
		strings.Fields(string(load))[0]), nil
}
