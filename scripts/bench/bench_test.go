package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{4}, 4},
		{[]float64{9, 1, 5}, 5},
		{[]float64{8, 1, 2, 4}, 3},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, wanted %v", c.values, got, c.want)
		}
	}
}

// TestBaselines takes every measure once, small, by the two ways that need no gate.
func TestBaselines(t *testing.T) {
	o := options{rounds: 1, size: 3<<20 + 17, keys: 10, logins: 1, budget: time.Minute}
	s, err := buildSite(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	results := map[string]*samples{}
	if err := measureRound(t.Context(), o, s, 0, results); err != nil {
		t.Fatal(err)
	}
	for _, m := range measures {
		for _, w := range s.ways {
			if got := results[m.name].byWay[w.name]; len(got) != 1 || got[0] <= 0 {
				t.Errorf("%s by way of %s: %v", m.name, w.name, got)
			}
		}
	}
	if _, err := download(t.Context(), s.ways[0].kept, "head -c 10 /dev/zero", 11); err == nil {
		t.Error("a short transfer counted as a whole one")
	}
	var out bytes.Buffer
	if err := report(&out, o, "machine", s.ways, results, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-J / direct", "key echo p99", "down, random"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestParseBenchmark(t *testing.T) {
	values := map[string][]float64{}
	found := parseBenchmark(strings.NewReader("goos: linux\nBenchmarkX/a-2 \t 100\t 5.5 ns/op\t 7 MB/s\nPASS\n"), "x", values)
	if found != 1 || len(values["x MB/s"]) != 1 || values["x MB/s"][0] != 7 || values["x ns/op"][0] != 5.5 {
		t.Errorf("found %d: %v", found, values)
	}
}

// TestRecorderReportSaysWhatIsMissed also holds every figure to a metric.
func TestRecorderReportSaysWhatIsMissed(t *testing.T) {
	values := map[string][]float64{}
	for _, f := range recorderFigures {
		values[f.folder+" "+f.benchmark+" "+f.metric] = []float64{1e6, 1, 1e6}
	}
	var out bytes.Buffer
	if err := reportRecorder(&out, "machine", 3, values); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<= 0.3", ">= 200000   1000000", "missed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	delete(values, "recorder/trec Seek ms-max")
	if err := reportRecorder(&out, "machine", 3, values); err == nil {
		t.Error("a figure that was not measured is not missed")
	}
}
