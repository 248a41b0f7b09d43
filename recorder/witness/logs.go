package witness

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// ParseLogs reads which logs a witness follows: keys of logs (vkeys), one a line,
// or a policy file, of which only the log lines count. Two keys of one origin are
// both good for it.
func ParseLogs(text []byte) ([]LogConfig, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("a list of logs of %d bytes is too large", len(text))
	}
	place := map[string]int{}
	var logs []LogConfig
	for i, line := range strings.Split(string(text), "\n") {
		key, ok := followedKey(strings.Fields(line))
		if !ok {
			return nil, fmt.Errorf("line %d: one key of a log belongs there", i+1)
		}
		if key == "" {
			continue
		}
		v, err := note.NewVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		at, known := place[v.Name()]
		if !known {
			at = len(logs)
			place[v.Name()] = at
			logs = append(logs, LogConfig{Origin: v.Name()})
		}
		logs[at].Verifiers = append(logs[at].Verifiers, v)
		if len(logs) > maxPolicyThings {
			return nil, fmt.Errorf("more than %d logs", maxPolicyThings)
		}
	}
	if len(logs) == 0 {
		return nil, errors.New("it names no log to follow")
	}
	return logs, nil
}

// followedKey is the key in a line, "" when the line is about something else.
func followedKey(fields []string) (key string, ok bool) {
	switch {
	case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
		return "", true
	case fields[0] == "log" && (len(fields) == 2 || len(fields) == 3):
		return fields[1], true
	case fields[0] == "witness", fields[0] == "group", fields[0] == "quorum":
		return "", true
	}
	return fields[0], len(fields) == 1
}
