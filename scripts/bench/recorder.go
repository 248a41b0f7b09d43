package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// recorderFigure is one line of the table about the recorder: a metric of a
// benchmark that lies beside the code which it measures, and the aim that it is held to.
type recorderFigure struct {
	label     string
	folder    string // of the package
	benchmark string // with its sub-benchmark
	metric    string // as the testing package prints it
	unit      string
	scale     float64 // of the metric to the unit
	aim       float64 // 0: none
	atLeast   bool    // the aim is a lower bound
}

// recorderFigures are those of the design, in the order of the report.
var recorderFigures = []recorderFigure{
	{label: "raw: 4 KiB and fdatasync, 250 a second, p50", folder: "recorder/journal", benchmark: "RawSync/paced", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "the same, p99", folder: "recorder/journal", benchmark: "RawSync/paced", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "raw: 4 KiB and fdatasync, back to back, p50", folder: "recorder/journal", benchmark: "RawSync/closed", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "append until durable, 1 session at 10/s, p50", folder: "recorder", benchmark: "OpenLoop/sessions=1", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "the same, p99", folder: "recorder", benchmark: "OpenLoop/sessions=1", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "64 sessions at 10/s, p50", folder: "recorder", benchmark: "OpenLoop/sessions=64", metric: "p50-µs", unit: "ms", scale: 1e-3, aim: 0.3},
	{label: "the same, p99", folder: "recorder", benchmark: "OpenLoop/sessions=64", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "256 sessions at 10/s, p50", folder: "recorder", benchmark: "OpenLoop/sessions=256", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "the same, p99", folder: "recorder", benchmark: "OpenLoop/sessions=256", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "1 session, one after the other, p50", folder: "recorder", benchmark: "AppendDurable/sessions=1", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "the same, p99", folder: "recorder", benchmark: "AppendDurable/sessions=1", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "64 sessions, one after the other, p50", folder: "recorder", benchmark: "AppendDurable/sessions=64", metric: "p50-µs", unit: "ms", scale: 1e-3, aim: 0.3},
	{label: "the same, p99", folder: "recorder", benchmark: "AppendDurable/sessions=64", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "256 sessions, one after the other, p50", folder: "recorder", benchmark: "AppendDurable/sessions=256", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "the same, p99", folder: "recorder", benchmark: "AppendDurable/sessions=256", metric: "p99-µs", unit: "ms", scale: 1e-3},
	{label: "events of 64 sessions, 100 bytes", folder: "recorder", benchmark: "Events", metric: "events/s", unit: "events/s", scale: 1, aim: 200_000, atLeast: true},
	{label: "the journal's part of it", folder: "recorder/journal", benchmark: "Events", metric: "events/s", unit: "events/s", scale: 1},
	{label: "bulk, text", folder: "recorder", benchmark: "BulkDurable/text", metric: "MB/s", unit: "MB/s", scale: 1, aim: 400, atLeast: true},
	{label: "bulk, random", folder: "recorder", benchmark: "BulkDurable/random", metric: "MB/s", unit: "MB/s", scale: 1, aim: 400, atLeast: true},
	{label: "computing for it, text", folder: "recorder", benchmark: "BulkProcessor/text", metric: "cpu-s/GB", unit: "s/GB", scale: 1},
	{label: "computing for it, random", folder: "recorder", benchmark: "BulkProcessor/random", metric: "cpu-s/GB", unit: "s/GB", scale: 1},
	{label: "the journal's part of bulk", folder: "recorder/journal", benchmark: "Bulk", metric: "MB/s", unit: "MB/s", scale: 1},
	{label: "an hour of mixed work on disk", folder: "recorder/trec", benchmark: "SessionHour/10s", metric: "KB/session-hour", unit: "KB", scale: 1, aim: 250},
	{label: "seek in 24 hours, median", folder: "recorder/trec", benchmark: "Seek", metric: "ms-median", unit: "ms", scale: 1, aim: 50},
	{label: "seek in 24 hours, longest", folder: "recorder/trec", benchmark: "Seek", metric: "ms-max", unit: "ms", scale: 1},
	{label: "verify a recording, one core", folder: "recorder/trec", benchmark: "Verify/verify/random", metric: "MB/s", unit: "GB/s", scale: 1e-3, aim: 1, atLeast: true},
	{label: "open it (decrypt, decompress)", folder: "recorder/trec", benchmark: "Verify/open/random", metric: "MB/s", unit: "GB/s", scale: 1e-3},
	{label: "ledger, 1 writer", folder: "recorder/ledger", benchmark: "Append/writers=1", metric: "appends/s", unit: "appends/s", scale: 1},
	{label: "the same, p50", folder: "recorder/ledger", benchmark: "Append/writers=1", metric: "p50-µs", unit: "ms", scale: 1e-3},
	{label: "ledger, 256 writers", folder: "recorder/ledger", benchmark: "Append/writers=256", metric: "appends/s", unit: "appends/s", scale: 1},
	{label: "memory that all sessions share", folder: "recorder", benchmark: "SessionMemory/idle", metric: "MB-shared", unit: "MB", scale: 1},
	{label: "memory of a session, idle", folder: "recorder", benchmark: "SessionMemory/idle", metric: "KB/session", unit: "KB", scale: 1, aim: 600},
	{label: "memory of a session, busy", folder: "recorder", benchmark: "SessionMemory/busy", metric: "KB/session", unit: "KB", scale: 1, aim: 600},
}

// benchTime is how long one benchmark runs in a round. Those that begin with
// much preparation, or measure once whatever the time, get a count instead.
func (f recorderFigure) benchTime() string {
	switch name, _, _ := strings.Cut(f.benchmark, "/"); name {
	case "SessionHour", "SessionMemory":
		return "1x"
	case "Seek":
		return "60x"
	default:
		return "1s"
	}
}

// recorderRounds bounds the rounds: one takes a minute or two.
const recorderRounds = 3

// measureRecorder runs every benchmark of the figures once in each round, the
// rounds one after the other so that a busy moment falls on few of them, and
// prints the medians beside the aims.
func measureRecorder(ctx context.Context, o options, out io.Writer) error {
	machine, err := describeMachine(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, f := range recorderFigures {
		binary := filepath.Join(dir, strings.ReplaceAll(f.folder, "/", "-"))
		if _, err := os.Stat(binary); err == nil {
			continue
		}
		if _, err := output(ctx, "go", "test", "-c", "-o", binary, "./"+f.folder); err != nil {
			return fmt.Errorf("building the benchmarks of %s: %w", f.folder, err)
		}
	}
	values := map[string][]float64{} // by folder, benchmark and metric
	rounds := min(o.rounds, recorderRounds)
	for round := range rounds {
		begun, last := time.Now(), ""
		for _, f := range recorderFigures {
			if run := f.folder + " " + f.benchmark; run != last {
				last = run
				if err := runBenchmark(ctx, dir, f, values); err != nil {
					return err
				}
			}
		}
		fmt.Fprintf(os.Stderr, "recorder: round %d of %d took %.0f s\n", round+1, rounds, time.Since(begun).Seconds())
	}
	return reportRecorder(out, machine, rounds, values)
}

// runBenchmark adds every metric of one benchmark.
func runBenchmark(ctx context.Context, dir string, f recorderFigure, values map[string][]float64) error {
	parts := strings.Split(f.benchmark, "/")
	for i := range parts {
		parts[i] = "^" + parts[i] + "$"
	}
	parts[0] = "^Benchmark" + parts[0][1:]
	binary := filepath.Join(dir, strings.ReplaceAll(f.folder, "/", "-"))
	command := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench="+strings.Join(parts, "/"), "-test.benchtime="+f.benchTime(), "-test.timeout=120s")
	command.Dir = f.folder // where the package's testdata is
	text, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s of %s: %w\n%s", f.benchmark, f.folder, err, text)
	}
	found := parseBenchmark(bytes.NewReader(text), f.folder+" "+f.benchmark, values)
	if found != 1 {
		return fmt.Errorf("%s of %s: %d benchmarks ran, wanted one\n%s", f.benchmark, f.folder, found, text)
	}
	return nil
}

// parseBenchmark reads lines such as "BenchmarkX-2 100 5 ns/op 7 MB/s" and
// returns how many there were.
func parseBenchmark(in io.Reader, key string, values map[string][]float64) (found int) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(fields[1]); err != nil {
			continue
		}
		found++
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				values[key+" "+fields[i+1]] = append(values[key+" "+fields[i+1]], v)
			}
		}
	}
	return found
}

// reportRecorder prints one line a figure.
func reportRecorder(out io.Writer, machine string, rounds int, values map[string][]float64) error {
	fmt.Fprintf(out, "%s\nThe recorder alone, mode durable, medians of %d rounds\n\n", machine, rounds)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "measure\tunit\taim\tmeasured\t\t")
	for _, f := range recorderFigures {
		all := values[f.folder+" "+f.benchmark+" "+f.metric]
		if len(all) == 0 {
			return fmt.Errorf("%s of %s tells no %s", f.benchmark, f.folder, f.metric)
		}
		got := median(all) * f.scale
		aim, verdict := "", ""
		if f.aim > 0 {
			sign, met := "<=", got <= f.aim
			if f.atLeast {
				sign, met = ">=", got >= f.aim
			}
			if aim = sign + " " + strconv.FormatFloat(f.aim, 'f', -1, 64); !met {
				verdict = "missed"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t\n", f.label, f.unit, aim, threeDigits(got), verdict)
	}
	return table.Flush()
}

// threeDigits writes a number with about three digits that count.
func threeDigits(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}
