// Package ledger is what a node did, in order, so that nobody can change it
// unseen: a tlog.Log whose batches are first made durable in the node's journal.
//
// It has two kinds of entries. An event is a commitment, and its text lies apart,
// sealed under a key of its project and quarter (KeyRing): the text can be
// destroyed and the tree still verifies. A leaf about a recording (Leaf) is
// public: it holds random identifiers and hashes of ciphertext only, so whoever has
// the ledger's directory and the node's public key can check recordings against it.
//
// Append, AppendAll and Record return when what they were given is durable
// and a signed checkpoint covers it; that costs one fdatasync, which all who
// wait share. Recover brings into the tiles what the journal holds after a crash;
// Open begins only when nothing is left there. Read and VerifyReceipt work
// on a copied directory without any secret.
//
// What it refuses: an event out of its order, an event whose text does not say
// the sequence it is given as, a public leaf with anything in it but the fields
// of its kind, and to go on after the journal or the disk failed. It does
// not decide what is an event, and it knows no people.
package ledger
