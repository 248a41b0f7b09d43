package console

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"sallyport/recorder/ledger"
	"sallyport/recorder/witness"
)

func (k *call) ledgerNoun() *cobra.Command {
	return noun("ledger", "The append-only log of this node",
		k.checkpointVerb(),
		verb("proof OLD NEW", "Prove that NEW entries begin with the first OLD", func(c *cobra.Command, args []string) error {
			older, errOld := strconv.ParseInt(args[0], 10, 64)
			newer, errNew := strconv.ParseInt(args[1], 10, 64)
			if errOld != nil || errNew != nil || older < 1 || older > newer {
				return Usagef("OLD and NEW are numbers of entries, OLD at least 1 and not above NEW")
			}
			if size := k.Ledger.Size(); newer > size {
				return notFound("the ledger has %d entries", size)
			}
			proof, err := k.Ledger.ProveConsistency(older, newer)
			if err != nil {
				return fmt.Errorf("prove: %w", err)
			}
			if k.json {
				hashes := make([]string, len(proof))
				for i, h := range proof {
					hashes[i] = h.String()
				}
				return k.printJSON(map[string]any{"old": older, "new": newer, "proof": hashes})
			}
			for _, h := range proof {
				fmt.Fprintln(k.out, h)
			}
			return nil
		}),
		verb("key", "Print the ledger's public key, for its witnesses", func(c *cobra.Command, args []string) error {
			key, err := ledger.PublicKey(k.Node, k.NodeKey)
			if err != nil {
				return err
			}
			return k.done(map[string]string{"key": key, "origin": ledger.OriginOf(k.Node)}, "%s", key)
		}))
}

func (k *call) checkpointVerb() *cobra.Command {
	var since int64
	c := verb("checkpoint", "Print a signed statement of how far the ledger has come", func(c *cobra.Command, args []string) error {
		signed := k.Ledger.Checkpoint()
		// Who copies the ledger's directory from now on must not get less than was shown here.
		if err := k.Ledger.Publish(c.Context()); err != nil {
			return err
		}
		if since < 0 {
			return Usagef("--since %d is no number of entries", since)
		}
		if c.Flags().Changed("since") {
			return k.extension(since, signed)
		}
		if k.json {
			return k.printJSON(map[string]string{"checkpoint": string(signed)})
		}
		_, err := k.out.Write(signed)
		return err
	})
	c.Flags().Int64Var(&since, "since", 0, "print also the proof that it continues the checkpoint of `N` entries, in the form of tlog-witness; exit code 4 if it has fewer")
	return c
}

// extension prints the checkpoint with the proof that it continues a smaller one.
// Whoever remembers a larger one is not given a proof, but the checkpoint: it is their evidence.
func (k *call) extension(since int64, signed []byte) error {
	c, err := ledger.ParseCheckpoint(signed)
	if err != nil {
		return err
	}
	e := witness.Extension{Old: since, Checkpoint: signed}
	if since > 0 && since < c.Size { // all continues nothing
		if e.Proof, err = k.Ledger.ProveConsistency(since, c.Size); err != nil {
			return fmt.Errorf("prove: %w", err)
		}
	}
	if k.json {
		err = k.printJSON(map[string]string{"extension": string(e.Format())})
	} else {
		_, err = k.out.Write(e.Format())
	}
	if err == nil && since > c.Size {
		return notFound("the ledger has %d entries, which cannot continue %d; what was printed is the signed evidence of that", c.Size, since)
	}
	return err
}
