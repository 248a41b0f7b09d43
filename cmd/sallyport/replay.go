package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sallyport/bastion/console"
	"sallyport/internal/config"
	"sallyport/replay"
)

// opening is what opens a recording on the auditor's machine.
type opening struct {
	identity, strict, key string
	own                   own
}

func (f *opening) register(c *cobra.Command) {
	c.Flags().StringVar(&f.identity, "identity", "", "the epoch's key from 'epoch new', a `FILE` (required)")
	c.Flags().StringVar(&f.strict, "strict-identity", "", "the epoch's strict key, a `FILE`, which opens what was typed; for --input")
	f.own.register(c, "auditor-identity")
	c.Flags().StringVar(&f.key, "key", "", "the node's public key, a `FILE`, to verify with; else that of the configuration")
}

// keys reads what opens and verifies. The node's key is nil when none is known.
func (f *opening) keys(ctx context.Context, o *settings, s streams) (replay.Keys, error) {
	if f.identity == "" {
		return replay.Keys{}, console.Usagef("--identity FILE is required: recordings are sealed")
	}
	own, err := f.own.identities(ctx, s)
	if err != nil {
		return replay.Keys{}, err
	}
	keys, err := openEpoch(f.identity, own)
	if err != nil {
		return replay.Keys{}, err
	}
	if keys.Identity == "" && keys.StrictIdentity != "" {
		return replay.Keys{}, console.Usagef("%s is the strict key alone; give it with --strict-identity, and the other one with --identity", f.identity)
	}
	if keys.Identity == "" {
		return replay.Keys{}, fmt.Errorf("%s holds no private key; it is the public half", f.identity)
	}
	if f.strict != "" {
		apart, err := openEpoch(f.strict, own)
		if err != nil {
			return replay.Keys{}, err
		}
		keys.StrictIdentity = apart.StrictIdentity
	}
	node, err := nodeKey(o, f.key)
	if err != nil {
		return replay.Keys{}, err
	}
	return replay.KeysOf(keys, node)
}

// nodeKey reads the node's public key: the file that was named, or the one
// that lies beside the private key of the configuration; nil when neither is there.
func nodeKey(o *settings, path string) (ed25519.PublicKey, error) {
	if path == "" {
		c, err := config.Load(o.configPath())
		if err != nil {
			// An auditor's machine has no configuration, and needs none unless one was named.
			if o.config == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
				return nil, nil
			}
			return nil, err
		}
		path = c.Keys.Node + ".pub"
	}
	text, err := readSmallFile(path)
	if err != nil {
		return nil, err
	}
	// The file may hold all that `ca show` prints; the node's line is the only plain ed25519 key of a node.
	for line := range strings.Lines(string(text)) {
		key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || strings.HasPrefix(line, "@") || strings.Contains(comment, " CA of ") {
			continue
		}
		if plain, ok := key.(ssh.CryptoPublicKey); ok {
			if ed, ok := plain.CryptoPublicKey().(ed25519.PublicKey); ok {
				return ed, nil
			}
		}
	}
	return nil, fmt.Errorf("%s holds no ed25519 key in OpenSSH format; `ca show node` prints the right one", path)
}

// formatNames are replay.Formats as a person reads them.
const formatNames = "asciicast, asciicast-v2, text, jsonl, raw or envelope"

func replayVerb(o *settings, s streams) *cobra.Command {
	from, with := source{purpose: "replay"}, opening{}
	var speed float64
	var at, idle time.Duration
	c := &cobra.Command{
		Use:   "replay SESSION|FILE",
		Short: "Play a session in the terminal, with the auditor's key",
		Long: `Replay plays a session as it was seen. It fetches the sealed recording from a
gate by ssh, verifies it, and opens it here, with the auditor's key; the gate
never sees that key. Keys while it plays: space pauses, arrows seek, + and -
change the speed, q ends.`,
		Args:    words(1, 1),
		Example: "  sallyport replay 12 --gate rosa@gate.example.org --identity genomics-2026Q4.key.age --auditor-identity rosa.key --reason 'monthly review'",
		RunE: func(c *cobra.Command, args []string) error {
			file, err := prepare(c.Context(), o, s, &from, &with, args[0])
			if err != nil {
				return err
			}
			defer file.close()
			if err := file.watchable(); err != nil {
				return err
			}
			player := replay.Player{File: file.File, Out: s.out, Speed: speed, At: at, Idle: idle}
			if !onTerminal(s.out) {
				return player.Play(c.Context())
			}
			return player.PlayFile(c.Context(), s.in)
		},
	}
	from.register(c)
	with.register(c)
	c.Flags().Float64Var(&speed, "speed", 1, "so many times as fast")
	c.PreRunE = func(*cobra.Command, []string) error {
		if at < 0 || idle < 0 || !(speed > 0) {
			return console.Usagef("--at and --max-idle cannot be negative, and --speed is more than 0")
		}
		return nil
	}
	c.Flags().DurationVar(&at, "at", 0, "begin there, such as 2m30s")
	c.Flags().DurationVar(&idle, "max-idle", 2*time.Second, "shorten longer pauses to this; 0 keeps them")
	return c
}

func exportVerb(o *settings, s streams) *cobra.Command {
	from, with := source{purpose: "export"}, opening{}
	var format string
	var input bool
	c := &cobra.Command{
		Use:     "export SESSION|FILE",
		Short:   "Write a session as asciicast, text, JSON lines or raw bytes",
		Args:    words(1, 1),
		Example: "  sallyport export 12.trec --format text --identity genomics-2026Q4.key.age --auditor-identity rosa.key > 12.txt",
		RunE: func(c *cobra.Command, args []string) error {
			if format == formatEnvelope {
				return exportEnvelope(c.Context(), o, s, &from, args[0], input)
			}
			if !slices.Contains(replay.Formats(), replay.Format(format)) {
				return console.Usagef("--format %q is no format; it is %s", format, formatNames)
			}
			if onTerminal(s.out) && format == string(replay.FormatRaw) {
				return console.Usagef("raw bytes could take over the terminal; send standard output to a file, or use replay")
			}
			file, err := prepare(c.Context(), o, s, &from, &with, args[0])
			if err != nil {
				return err
			}
			defer file.close()
			if f := replay.Format(format); f != replay.FormatJSONLines && f != replay.FormatRaw {
				if err := file.watchable(); err != nil {
					return err
				}
			}
			r, err := file.Frames()
			if err != nil {
				return err
			}
			result, err := replay.Export(s.out, r, replay.ExportOptions{Format: replay.Format(format), Input: input})
			if err != nil {
				return err
			}
			tellExport(s.err, result, input)
			return nil
		},
	}
	from.register(c)
	with.register(c)
	c.Flags().StringVar(&format, "format", string(replay.FormatAsciicast), formatNames)
	c.Flags().BoolVar(&input, "input", false, "also what the person sent; with envelope, that of its key")
	return c
}

// tellExport says what an export could not hold.
func tellExport(w io.Writer, result replay.ExportResult, input bool) {
	if result.Ending != replay.EndingComplete {
		fmt.Fprintf(w, "sallyport: the recording is %s\n", result.Ending)
	}
	if input && result.Sealed > 0 {
		fmt.Fprintf(w, "sallyport: %d typed frames stay sealed; they need the strict identity\n", result.Sealed)
	}
	if result.Replaced > 0 {
		fmt.Fprintf(w, "sallyport: %d bytes that are not UTF-8 stand as U+FFFD; `--format jsonl` has them\n", result.Replaced)
	}
	if result.LeftOut > 0 {
		fmt.Fprintf(w, "sallyport: %d rows that filled whole screens with a few bytes are left out; `--format jsonl` has what was sent\n", result.LeftOut)
	}
}
