// Package tlog is a node's ledger: an RFC 6962 Merkle tree in the directory
// layout of C2SP tlog-tiles, with signed checkpoints (C2SP tlog-checkpoint)
// that other hosts cosign (package witness).
//
// [Log.Append] returns when the leaves are durable and a checkpoint that covers
// them is signed; both go to the append file in one write and one fdatasync.
// Tiles are written behind it and can be made again from it at any moment.
// A leaf is a commitment to a salt and a body ([Commit]). Bodies lie apart,
// sealed under a key of their project and quarter ([KeyRing]): destroying the
// key makes the bodies unreadable and leaves a tree that verifies.
//
// [Verify] checks a copied directory with the log's verifier key only, and
// [Remembered] keeps what somebody saw last, so that a log which was rewritten
// and signed again with its own key is found out.
//
// What it refuses: to go on after a write or an fdatasync failed, to open a
// directory whose append file, tiles and checkpoint contradict one another, to
// sign two checkpoints that are inconsistent, and to make a key again that was
// destroyed. It does not decide what is logged, and it knows no people.
package tlog
