// Package testkit starts the real parts that tests and the benchmark run
// against: an OpenSSH server with the configuration that configs/ gives to data
// servers, a plain jump host to compare with, operating-system accounts, and an
// authenticator that types one-time codes at a stock ssh client's prompt.
//
// It imitates nothing: where a part cannot be had (no root, no sshd), it fails
// with a sentence instead of leaving the test out. It is imported by tests and
// by scripts/bench only; internal/layering holds that line.
package testkit
