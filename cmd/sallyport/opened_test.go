package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	wordlist "sallyport/internal/words"
	"sallyport/recorder"
)

func unchanged(*recorder.Meta) {}

// Header and recipients of a recording are public, so that anybody can make a file without a signed end.
func TestPromise4_WhatNothingSignedVouchesForIsSaid(t *testing.T) {
	unsigned, unsignedIdentity, unsignedKey := recordedWith(t, unchanged, false)
	signed, identity, key := recorded(t)
	dir := filepath.Join(t.TempDir(), "index")
	for _, verb := range [][]string{{"replay", "--speed", "64"}, {"export"}, {"export", "--format", "raw"}, {"export", "--format", "jsonl"}} {
		code, out, told := command(t, "", append(verb, unsigned, "--identity", unsignedIdentity, "--key", unsignedKey)...)
		if code != 0 || out == "" || !strings.Contains(told, "WARNING") || !strings.Contains(told, "nothing signed says that this is what was recorded") {
			t.Errorf("%q of what is not signed: %d %q %s", verb, code, out, told)
		}
		if code, _, told := command(t, "", append(verb, signed, "--identity", identity, "--key", key)...); code != 0 || strings.Contains(told, "WARNING") {
			t.Errorf("%q of what is signed: %d %s", verb, code, told)
		}
	}
	addSigned := []string{"index", "add", signed, "--identity", identity, "--key", key, "--index", dir}
	addUnsigned := []string{"index", "add", unsigned, "--identity", unsignedIdentity, "--key", unsignedKey, "--index", dir}
	for _, words := range [][]string{addUnsigned, {"index", "add", signed, "--identity", identity, "--index", dir}} {
		if code, _, told := command(t, "", words...); code != 1 || !strings.Contains(told, "--unsigned") {
			t.Errorf("%q: %d %s", words, code, told)
		}
	}
	if code, out, told := command(t, "", append(addUnsigned, "--unsigned")...); code != 0 || !strings.Contains(out, "not signed") {
		t.Errorf("with --unsigned: %d %s%s", code, out, told)
	}
	if code, out, told := command(t, "", addSigned...); code != 0 || strings.Contains(out, "not signed") {
		t.Errorf("a signed one in its place: %d %s%s", code, out, told)
	}
	if code, _, told := command(t, "", append(addUnsigned, "--unsigned")...); code != 1 || !strings.Contains(told, "index rm") {
		t.Errorf("an unsigned one in the place of that: %d %s", code, told)
	}
	for _, words := range [][]string{{"index", "ls"}, {"search", "--local", "hello"}} {
		if code, out, _ := command(t, "", append(words, "--index", dir)...); code != 0 || !strings.Contains(out, "S-01TEST") || strings.Contains(out, "not signed") {
			t.Errorf("%q: %d %s", words, code, out)
		}
	}
}

// A gate, or a folder that others write to, may hand over another session than the one that was asked for.
func TestAnotherSessionThanAskedForIsRefused(t *testing.T) {
	recording, identity, key := recorded(t)
	program, _ := fakeSSH(t, recording, "0")
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	t.Chdir(folder)
	for _, name := range []string{"S-02OTHER.trec", "copy.trec", "S-1.sealed", "1", "S-01TEST"} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gate := []string{"--gate", "rosa@gate", "--ssh", "'" + program + "'", "--reason", "monthly review"}
	for _, c := range []struct {
		words []string
		code  int
		told  string
	}{
		{append([]string{"1"}, gate...), 0, ""},
		{append([]string{"S-01TEST"}, gate...), 0, ""},
		{append([]string{"s-01"}, gate...), 0, ""},
		{append([]string{"12"}, gate...), 1, "session 12 was asked for, and what came is session S-01TEST"},
		{append([]string{"S-02"}, gate...), 1, "session S-02 was asked for"},
		{append([]string{"S-01TESTED"}, gate...), 1, "was asked for"},
		{[]string{"S-02OTHER.trec"}, 1, "holds session S-01TEST"},
		{[]string{filepath.Join(folder, "S-02OTHER.trec")}, 1, "holds session S-01TEST"},
		{[]string{"copy.trec"}, 0, ""},
		{[]string{"S-1.sealed"}, 0, ""},
		{[]string{recording}, 0, ""},
		// In the working folder anybody may have put a file that is called like a session.
		{[]string{"1"}, 2, "./1"},
		{[]string{"S-01TEST"}, 2, "./S-01TEST"},
		{[]string{"./1"}, 0, ""},
		{[]string{"./S-01TEST"}, 0, ""},
	} {
		for _, verb := range [][]string{{"replay", "--speed", "64"}, {"export"}, {"index", "add", "--index", filepath.Join(t.TempDir(), "index")}} {
			code, out, told := command(t, "", append(append(verb, c.words...), "--identity", identity, "--key", key)...)
			if code != c.code || !strings.Contains(told, c.told) || code != 0 && out != "" {
				t.Errorf("%q %q: %d %q %s", verb, c.words, code, out, told)
			}
		}
	}
}

// Whatever a file or a gate says, an auditor's terminal shows it and obeys none of it.
func TestNothingHostileReachesTheAuditorsTerminal(t *testing.T) {
	const evil = "\x1b]0;t\a\u009b2J\u202e\nsallyport: all is well"
	recording, identity, key := recordedWith(t, func(m *recorder.Meta) {
		m.User, m.Project, m.Server, m.Account, m.Term, m.RemoteAddr = "u"+evil, "p"+evil, "s"+evil, evil, evil, evil
	}, true)
	dir := filepath.Join(t.TempDir(), "index")
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "S-01TEST.trec")
	named := filepath.Join(t.TempDir(), evil+".trec")
	text[len(text)/2] ^= 1
	for _, path := range []string{broken, named} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opened := []string{"--identity", identity, "--key", key}
	for _, c := range [][]string{
		append([]string{"index", "add", recording, "--index", dir}, opened...),
		append([]string{"index", "add", recording, "--index", dir, "--json"}, opened...),
		{"index", "ls", "--index", dir},
		{"index", "ls", "--index", dir, "--json"},
		{"search", "--local", "hello", "--index", dir},
		{"search", "--local", "hello", "--index", dir, "--json"},
		append([]string{"export", recording}, opened...),
		append([]string{"export", recording, "--format", "jsonl"}, opened...),
		append([]string{"replay", broken}, opened...),
		append([]string{"replay", named}, opened...),
		{"verify", named, "--key", key},
		{"verify", named, "--key", key, "--json"},
		{"verify", evil, "--key", key},
		{evil},
		{"index", "rm", evil, "--index", dir},
	} {
		_, out, told := command(t, "", c...)
		for _, r := range out + told {
			if r != '\n' && wordlist.Hidden(r) {
				t.Errorf("%q shows %U:\n%q\n%q", c, r, out, told)
				break
			}
		}
	}
	if code, _, told := command(t, "", "index", "ls", "--index", dir); code != 0 {
		t.Errorf("index ls: %s", told)
	}
	if _, out, _ := command(t, "", "search", "--local", "hello", "--index", dir); !strings.Contains(out, "hello from") || strings.Contains(out, "\nsallyport: all") {
		t.Errorf("a line was forged, or nothing found: %s", out)
	}
}
