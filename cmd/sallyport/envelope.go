package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"sallyport/bastion/console"
	"sallyport/recorder/trec"
)

// formatEnvelope is a format of export that is not what was shown but the key
// to it: an age file that the age command opens with the auditors' identity.
const formatEnvelope = "envelope"

// exportEnvelope writes the envelope of a recording's session key, or of the key
// for what was typed. It needs no identity: nothing is opened.
func exportEnvelope(ctx context.Context, o *settings, s streams, from *source, word string, typed bool) error {
	if onTerminal(s.out) {
		return console.Usagef("the envelope is no text; send standard output to a file")
	}
	path, _, cleanup, err := from.open(ctx, o, s, word)
	if err != nil {
		return err
	}
	defer cleanup()
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	_, envelope, strict, err := trec.ReadHeader(in)
	if err != nil {
		return fmt.Errorf("the recording %s: %w", word, err)
	}
	if typed {
		if len(strict) == 0 {
			return errors.New("the session had no terminal: what was sent is under the session key, too")
		}
		envelope = strict
	}
	_, err = s.out.Write(envelope)
	return err
}
