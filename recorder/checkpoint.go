package recorder

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// Checkpoint is a signed statement of how far the ledger has come.
type Checkpoint struct {
	Node      string    `json:"node"`
	Sequence  int64     `json:"sequence"`
	Head      string    `json:"head"` // hex
	Time      time.Time `json:"time"`
	Signature string    `json:"signature"` // base64, over the line "sallyport checkpoint v1\n…"
}

func (c Checkpoint) message() []byte {
	return fmt.Appendf(nil, "sallyport checkpoint v1\n%s\n%d\n%s\n%s\n", c.Node, c.Sequence, c.Head, c.Time.UTC().Format(time.RFC3339Nano))
}

func (c *Checkpoint) sign(key ed25519.PrivateKey) {
	c.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, c.message()))
}

// Verify returns nil when the checkpoint was signed by the node's key.
func (c Checkpoint) Verify(key ed25519.PublicKey) error {
	signature, err := base64.StdEncoding.DecodeString(c.Signature)
	if err != nil {
		return fmt.Errorf("the checkpoint's signature is not base64: %w", err)
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, c.message(), signature) {
		return errors.New("the checkpoint was not signed by this node's key")
	}
	return nil
}

// LedgerFile is the name of a ledger of the first format in its folder.
const LedgerFile = "ledger.log"
