// Package witness lets other hosts vouch for a node's ledger: a server that
// cosigns checkpoints (C2SP tlog-witness, cosignature/v1), the client with
// which a node collects cosignatures, the policy that says which are enough
// (C2SP tlog-policy), and a sender that ships checkpoints to a log server
// (RFC 5424 over TLS).
//
// A witness sees an origin, a size, a root and the hashes of a proof, never an
// entry. It keeps one checkpoint for each log, durable before it answers.
//
// What it refuses: to cosign anything that is not an extension of what it
// cosigned before, to answer when it could not persist, and to count a witness
// that runs on the log's own host.
package witness
