package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const documented = "../../configs/sallyport.yaml"

func TestDocumentedFileLoads(t *testing.T) {
	c, err := Load(documented)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "gate.example.org" || c.Retention.Days != 400 || c.Recording.MinFree != 512<<20 || c.Limits.FactorTime != 2*time.Minute {
		t.Fatalf("read %+v", c)
	}
}

// Every field must stand in the documented file, commented out or not, and what stands there is the default.
func TestDocumentedFileNamesEveryField(t *testing.T) {
	text, err := os.ReadFile(documented)
	if err != nil {
		t.Fatal(err)
	}
	var check func(path string, indent string, of reflect.Type)
	check = func(path, indent string, of reflect.Type) {
		for i := range of.NumField() {
			name := of.Field(i).Tag.Get("yaml")
			if name == "" {
				continue
			}
			found := strings.Contains(string(text), "\n"+indent+name+":") || strings.Contains(string(text), "\n"+indent+"# "+name+":")
			if !found {
				t.Errorf("%s%s is not documented in configs/sallyport.yaml", path, name)
			}
			if of.Field(i).Type.Kind() == reflect.Struct {
				check(path+name+".", indent+"  ", of.Field(i).Type)
			}
		}
	}
	check("", "", reflect.TypeFor[Config]())

	full, err := Parse("/gate/sallyport.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	least, err := Parse("/gate/sallyport.yaml", []byte("name: gate.example.org\n"))
	if err != nil {
		t.Fatal(err)
	}
	// The front door holds the defaults of the limits; they are compared in package node.
	full.Limits, least.Limits = Limits{}, Limits{}
	if !reflect.DeepEqual(full, least) {
		t.Errorf("the documented file is not the default:\n%+v\n%+v", full, least)
	}
}

func TestFaultsNameLineAndField(t *testing.T) {
	for _, c := range []struct {
		name  string
		text  string
		line  int
		field string
		fault string
	}{
		{"unknown field", "name: g\nlisten_on: x\n", 2, "listen_on", "no field"},
		{"unknown nested field", "name: g\nlimits:\n  channel: 3\n", 3, "limits.channel", "no field"},
		{"stands twice", "name: g\nname: h\n", 0, "", "already defined"},
		{"text for a mapping", "name: g\nca: keys\n", 2, "ca", "mapping"},
		{"number for a text", "name: 12\n", 1, "name", "must be a text"},
		{"text for a number", "name: g\nretention:\n  days: long\n", 3, "retention.days", "whole number"},
		{"null", "name: g\nlisten:\n", 2, "listen", "not nothing"},
		{"list for a text", "name: g\nlisten: [a]\n", 2, "listen", "not a list"},
		{"text for a list", "name: g\nhost_keys: a\n", 2, "host_keys", "must be a list"},
		{"item of a list", "name: g\nsource_address:\n - 10.0.0.0/8\n - ten\n", 4, "source_address[1]", "no address"},
		{"size without unit", "name: g\nrecording:\n  min_free: 512\n", 3, "recording.min_free", "such as 512MiB"},
		{"size too small", "name: g\nrecording:\n  min_free: 1KiB\n", 3, "recording.min_free", "less than 16MiB"},
		{"one form twice", "name: g\nrecording:\n  dir: a\n  second_dir: ./a\n", 4, "recording.second_dir", "no second place"},
		{"no backlog", "name: g\nrecording:\n  max_backlog: 1KiB\n", 3, "recording.max_backlog", "less than 1MiB"},
		{"a slow scrub", "name: g\nrecording:\n  scrub_rate: 1KiB\n", 3, "recording.scrub_rate", "less than 64KiB"},
		{"size too large", "name: g\nrecording:\n  min_free: 99999999999TiB\n", 3, "recording.min_free", "no size"},
		{"duration without unit", "name: g\nlimits:\n  drain: 30\n", 3, "limits.drain", "such as 90s"},
		{"negative duration", "name: g\nlimits:\n  drain: -3s\n", 3, "limits.drain", "no duration"},
		{"zero limit", "name: g\nlimits:\n  channels: 0\n", 3, "limits.channels", "more than nothing"},
		{"limit out of range", "name: g\nlimits:\n  channels: 5000\n", 3, "limits.channels", "at most 1000"},
		{"retention too short", "name: g\nretention:\n  days: 182\n", 3, "retention.days", "six months"},
		{"retention zero", "name: g\nretention:\n  days: 0\n", 3, "retention.days", "six months"},
		{"name missing", "listen: :22\n", 0, "name", "missing"},
		{"name with a space", "name: a b\n", 1, "name", "no host name"},
		{"listen without port", "name: g\nlisten: gate\n", 2, "listen", "HOST:PORT"},
		{"listen port too high", "name: g\nlisten: gate:65536\n", 2, "listen", "65535"},
		{"metrics in public", "name: g\nmetrics: 0.0.0.0:9122\n", 2, "metrics", "no loopback"},
		{"metrics everywhere", "name: g\nmetrics: :9122\n", 2, "metrics", "no loopback"},
		{"metrics by a name", "name: g\nmetrics: gate:9122\n", 2, "metrics", "no loopback"},
		{"profile", "name: g\nprofile: weak\n", 2, "profile", "strict or compat"},
		{"level", "name: g\nlog_level: INFO\n", 2, "log_level", "debug, info"},
		{"database of another kind", "name: g\ndatabase: mysql://u:secret@h/d\n", 2, "database", "PostgreSQL"},
		{"socket too long", "name: g\nsocket: /" + strings.Repeat("x", 103) + "\n", 2, "socket", "103 bytes"},
		{"empty text", "name: g\nstate: ''\n", 2, "state", "is empty"},
		{"no YAML", "name: g\n\tlisten: x\n", 2, "", "not valid YAML"},
		{"two documents", "name: g\n---\nname: h\n", 2, "", "second YAML document"},
		{"empty file", "", 0, "", "empty"},
		{"a list", "- name\n", 1, "", "mapping"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("/gate/sallyport.yaml", []byte(c.text))
			var fault *Error
			if !errors.As(err, &fault) {
				t.Fatalf("no *Error but %v", err)
			}
			if c.name == "stands twice" {
				// The library or the walk may be the one to notice; both name the line.
				if fault.Line != 2 {
					t.Fatalf("line %d: %v", fault.Line, err)
				}
				return
			}
			if !strings.HasPrefix(err.Error(), "/gate/sallyport.yaml:") {
				t.Errorf("the file is not named: %v", err)
			}
			// The library names the line before or at a tab; both lead there.
			if c.name != "no YAML" && c.name != "two documents" && fault.Line != c.line {
				t.Errorf("line %d, want %d: %v", fault.Line, c.line, err)
			}
			if fault.Field != c.field || !strings.Contains(fault.Fault, c.fault) {
				t.Errorf("field %q, fault %q; want %q, %q", fault.Field, fault.Fault, c.field, c.fault)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats a password: %v", err)
			}
		})
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	_, err := Parse("/gate/sallyport.yaml", []byte("name: g\nprofile: x\nretention:\n  days: 3\n"))
	if err == nil || strings.Count(err.Error(), "/gate/sallyport.yaml:") != 2 {
		t.Fatalf("want two faults, got %v", err)
	}
}

func TestPathsStartAtTheFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sallyport.yaml")
	if err := os.WriteFile(file, []byte("name: gate\nstate: data\ndatabase: /srv/x.db\nhost_keys: [a, /b]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ got, want string }{
		{c.State, dir + "/data"},
		{c.Recording.Dir, dir + "/data/recordings"},
		{c.Database, "/srv/x.db"},
		{c.HostKeys[0], dir + "/a"},
		{c.HostKeys[1], "/b"},
		{c.Socket, dir + "/sallyport.sock"},
	} {
		if p.got != p.want {
			t.Errorf("%s, want %s", p.got, p.want)
		}
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]Size{"0B": 0, "1KiB": 1024, "512MiB": 512 << 20, "3 GiB": 3 << 30, "1023B": 1023} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%s written as %s reads as %d, %v", text, got, back, err)
		}
	}
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "MiB", "-1B", "1.5GiB", "9999999TiB", "1MB"} {
		if v, err := ParseSize(text); err == nil {
			t.Errorf("%q passes as %v", text, v)
		}
	}
	for _, text := range []string{"", "1", "d", "-1d", "99999999d", "1w"} {
		if v, err := ParseDuration(text); err == nil {
			t.Errorf("%q passes as %v", text, v)
		}
	}
}

// FuzzParse checks that no text makes the decoder panic, and that every error names the file.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"name: g\n", "a: &x [*x]\n", "<<: {name: g}\n", "? [a]\n: b\n", "name: !!binary aGk=\n", "limits: {drain: 3s}\n", "--- \n...\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("/gate/sallyport.yaml", []byte(text))
		if err == nil && c.Name == "" {
			t.Fatal("accepted without a name")
		}
		if err != nil && !strings.HasPrefix(err.Error(), "/gate/sallyport.yaml:") {
			t.Fatalf("the file is not named: %v", err)
		}
	})
}
