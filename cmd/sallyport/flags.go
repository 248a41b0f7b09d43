package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sallyport/bastion/console"
	"sallyport/internal/config"
	wordlist "sallyport/internal/words"
)

// words wants so many words after the verb.
func words(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return console.Usagef("a word is missing; usage: %s", c.UseLine())
		case len(args) > most:
			return console.Usagef("%q is a word too many; usage: %s", args[most], c.UseLine())
		}
		return nil
	}
}

func noWords(c *cobra.Command, args []string) error { return words(0, 0)(c, args) }

func wantsJSON(c *cobra.Command) bool {
	v, err := c.Flags().GetBool("json")
	return err == nil && v
}

// printJSON writes JSON that a terminal can show: what would do something else there stands as \u escapes.
func printJSON(s streams, value any) error {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := io.WriteString(s.out, wordlist.EscapeJSON(b.String()))
	return err
}

func onTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// load reads the configuration that was asked for.
func (o *settings) load() (*config.Config, error) {
	c, err := config.Load(o.configPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no configuration %s; give --config FILE or set SALLYPORT_CONFIG", o.configPath())
	}
	return c, err
}

// maxSmallFile bounds what is read of keys and checkpoints, in bytes.
const maxSmallFile = 1 << 20

func readSmallFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSmallFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > maxSmallFile {
		return nil, fmt.Errorf("%s is too large for what it should hold", path)
	}
	return text, nil
}

// writeNewFile writes a file that must not be there yet, durably.
func writeNewFile(path string, content []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; a key is never written over", filepath.Base(path))
	}
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}
