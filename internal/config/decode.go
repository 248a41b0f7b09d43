package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Error says what is wrong with a configuration file, and where.
type Error struct {
	File  string
	Line  int    // 0 when the fault is an absence
	Field string // dotted, e.g. limits.channels; empty when the file is no YAML
	Fault string
}

func (e *Error) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	if e.Field != "" {
		return fmt.Sprintf("%s: %s: %s", where, e.Field, e.Fault)
	}
	return where + ": " + e.Fault
}

// decoder fills a Config from a YAML tree. It is our own walk over the tree,
// because the errors of the library's decoder name a line, not a field.
type decoder struct {
	file   string
	lines  map[string]int // line of each field that stands in the file
	faults []error
}

var lineInError = regexp.MustCompile(`line (\d+)`)

func (d *decoder) decode(text []byte, into *Config) error {
	var documents []*yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(text))
	for {
		node := new(yaml.Node)
		err := reader.Decode(node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d.notYAML(err)
		}
		documents = append(documents, node)
	}
	switch {
	case len(documents) == 0:
		return &Error{File: d.file, Fault: "the file is empty"}
	case len(documents) > 1:
		return &Error{File: d.file, Line: documents[1].Line, Fault: "there is a second YAML document; a configuration is one document"}
	}
	root := documents[0]
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	d.mapping(root, "", reflect.ValueOf(into).Elem())
	return errors.Join(d.faults...)
}

func (d *decoder) notYAML(err error) error {
	e := &Error{File: d.file, Fault: "is not valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := lineInError.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
	}
	return e
}

func (d *decoder) fault(node *yaml.Node, field, format string, args ...any) {
	d.faults = append(d.faults, &Error{File: d.file, Line: node.Line, Field: field, Fault: fmt.Sprintf(format, args...)})
}

func (d *decoder) mapping(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.fault(node, path, "must be a mapping of fields, not %s", kindName(node))
		return
	}
	fields := make(map[string]reflect.Value)
	var names []string
	for i := range into.NumField() {
		if name := into.Type().Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = into.Field(i)
			names = append(names, name)
		}
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		full := key.Value
		if path != "" {
			full = path + "." + key.Value
		}
		field, ok := fields[key.Value]
		switch {
		case !ok:
			d.fault(key, full, "is no field of the configuration; known here: %s", strings.Join(names, ", "))
		case seen[key.Value]:
			d.fault(key, full, "stands twice")
		default:
			seen[key.Value] = true
			d.lines[full] = value.Line
			d.value(value, full, field)
		}
	}
}

func (d *decoder) value(node *yaml.Node, path string, into reflect.Value) {
	switch into.Interface().(type) {
	case time.Duration:
		d.scalar(node, path, "a duration such as 90s", func(text string) error {
			v, err := ParseDuration(text)
			into.SetInt(int64(v))
			return err
		})
		return
	case Size:
		d.scalar(node, path, "a size such as 512MiB", func(text string) error {
			v, err := ParseSize(text)
			into.SetInt(int64(v))
			return err
		})
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.mapping(node, path, into)
	case reflect.String:
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" {
			d.fault(node, path, "must be a text, not %s", kindName(node))
			return
		}
		if node.Value == "" {
			d.fault(node, path, "is empty; leave the field out to have its default")
			return
		}
		into.SetString(node.Value)
	case reflect.Int:
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!int" {
			d.fault(node, path, "must be a whole number, not %s", kindName(node))
			return
		}
		v, err := strconv.ParseInt(node.Value, 10, 32)
		if err != nil {
			d.fault(node, path, "%q is no whole number that fits here", node.Value)
			return
		}
		into.SetInt(v)
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			d.fault(node, path, "must be a list, not %s", kindName(node))
			return
		}
		list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
		for i, item := range node.Content {
			name := fmt.Sprintf("%s[%d]", path, i)
			d.lines[name] = item.Line
			d.value(item, name, list.Index(i))
		}
		into.Set(list)
	default:
		panic("config: field " + path + " has a type that the decoder does not know")
	}
}

func (d *decoder) scalar(node *yaml.Node, path, what string, set func(string) error) {
	if node.Kind != yaml.ScalarNode || node.ShortTag() == "!!null" {
		d.fault(node, path, "must be %s, not %s", what, kindName(node))
		return
	}
	if err := set(node.Value); err != nil {
		d.fault(node, path, "%v", err)
	}
}

func kindName(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "yes or no"
	case "!!int":
		return "a whole number"
	case "!!float":
		return "a number"
	}
	return "a text"
}
