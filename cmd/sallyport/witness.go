package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/bastion/console"
	"sallyport/recorder/witness"
)

// Files of a witness in its folder.
const (
	witnessKeyFile  = "witness.key"
	witnessLogsFile = "logs"
	witnessState    = "state"
)

func witnessVerb(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "witness",
		Short: "Vouch on another host for the ledgers of nodes",
		Long: `A witness cosigns the checkpoints of nodes' ledgers when each extends what it
cosigned before (C2SP tlog-witness). It learns sizes and hashes, never what an
entry says. It must run on another machine than the nodes it vouches for.`,
	}
	c.AddCommand(witnessInitVerb(s), witnessServeVerb(s))
	return c
}

func witnessInitVerb(s streams) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "init DIR",
		Short:   "Make the key of a new witness",
		Args:    words(1, 1),
		Example: "  sallyport witness init /var/lib/sallyport-witness --name witness.example.org/w1",
		RunE: func(c *cobra.Command, args []string) error {
			if name == "" {
				return console.Usagef("--name is required, such as witness.example.org/w1")
			}
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("make a key: %w", err)
			}
			if _, err := witness.NewSigner(name, private, time.Now); err != nil {
				return console.Usagef("%q is no name of a witness: %v", name, err)
			}
			if err := os.MkdirAll(filepath.Join(args[0], witnessState), 0o700); err != nil {
				return err
			}
			text := name + " " + base64.StdEncoding.EncodeToString(private.Seed()) + "\n"
			if err := writeNewFile(filepath.Join(args[0], witnessKeyFile), []byte(text), 0o600); err != nil {
				return err
			}
			key := witness.VerifierKey(name, public)
			if wantsJSON(c) {
				return printJSON(s, map[string]string{"name": name, "key": key, "dir": args[0]})
			}
			_, err = fmt.Fprintf(s.out, `This witness's key, for the policy of each node:

%s

Put the key of each log it is to follow (ssh GATE ledger key) into %s, one a
line, then start it with: sallyport witness serve %s --listen ADDRESS --certificate FILE
`, key, filepath.Join(args[0], witnessLogsFile), args[0])
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the witness, a URL without https:// (required)")
	return c
}

// witnessService is what `witness serve` was told.
type witnessService struct {
	dir, listen, certificate, key, logs string
}

func witnessServeVerb(s streams) *cobra.Command {
	var o witnessService
	c := &cobra.Command{
		Use:     "serve DIR",
		Short:   "Answer nodes that ask for a cosignature",
		Args:    words(1, 1),
		Example: "  sallyport witness serve /var/lib/sallyport-witness --listen :8443 --certificate fullchain.pem --key key.pem",
		RunE: func(c *cobra.Command, args []string) error {
			o.dir = args[0]
			return o.serve(c.Context(), s)
		},
	}
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:8080", "`ADDRESS` to answer on; without --certificate it must be of loopback, for a proxy in front")
	c.Flags().StringVar(&o.certificate, "certificate", "", "PEM certificates for TLS, a `FILE`")
	c.Flags().StringVar(&o.key, "key", "", "PEM private key for TLS, a `FILE`; by default in the file of the certificates")
	c.Flags().StringVar(&o.logs, "logs", "", "logs to follow, a `FILE` of keys or a policy (default DIR/logs)")
	return c
}

func (o *witnessService) serve(ctx context.Context, s streams) error {
	logger := slog.New(slog.NewJSONHandler(s.err, nil))
	signer, err := readWitnessKey(filepath.Join(o.dir, witnessKeyFile))
	if err != nil {
		return err
	}
	logs, err := o.followed()
	if err != nil {
		return err
	}
	server, err := witness.NewServer(witness.ServerOptions{Dir: filepath.Join(o.dir, witnessState), Signer: signer, Logs: logs, Log: logger})
	if err != nil {
		return err
	}
	listener, err := o.open()
	if err != nil {
		return err
	}
	logger.Info("serving", "witness", signer.Name(), "address", listener.Addr().String(), "logs", len(logs), "tls", o.certificate != "")
	return witness.Serve(ctx, listener, server)
}

// open listens with TLS, or in clear on loopback only.
func (o *witnessService) open() (net.Listener, error) {
	if o.certificate == "" {
		host, _, err := net.SplitHostPort(o.listen)
		if err != nil {
			return nil, console.Usagef("--listen %q is no address of the form HOST:PORT", o.listen)
		}
		if address, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !address.IsLoopback()) {
			return nil, console.Usagef("--listen %s is not of loopback: give --certificate, or put a proxy in front", o.listen)
		}
		return net.Listen("tcp", o.listen)
	}
	key := o.key
	if key == "" {
		key = o.certificate
	}
	pair, err := tls.LoadX509KeyPair(o.certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return tls.Listen("tcp", o.listen, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
}

// followed reads the logs to follow.
func (o *witnessService) followed() ([]witness.LogConfig, error) {
	path := o.logs
	if path == "" {
		path = filepath.Join(o.dir, witnessLogsFile)
	}
	text, err := readSmallFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s; put there what `ssh GATE ledger key` prints, a line for each node", path)
		}
		return nil, fmt.Errorf("logs to follow: %w", err)
	}
	logs, err := witness.ParseLogs(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return logs, nil
}

// readWitnessKey reads what witnessInitVerb wrote; nobody else may read it.
func readWitnessKey(path string) (*witness.Signer, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no witness; make one with `sallyport witness init DIR`", filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be used by others than its owner; set it to 0600, and consider whether the key is still secret", path)
	}
	text, err := readSmallFile(path)
	if err != nil {
		return nil, err
	}
	name, encoded, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	seed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is no key of a witness", path)
	}
	return witness.NewSigner(name, ed25519.NewKeyFromSeed(seed), time.Now)
}
